"""Tokenizers of both formats, chat templates and streaming text."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.model.text.tokenizer_files import TokenizerSettings
from tests.model.tiny_models import CHAT_TEMPLATE, make_tiny_gguf, tiny_tokenizer
from tests.model.tiny_models import write_tiny_tokenizer as write_tokenizer

TEXTS = (
    "A shoal of fish",
    "  two spaces  3 and 1234\n\n\tx",
    "Grüße 你好 🐟🐟 don't",
    "<|im_start|>user\nhi<|im_end|>",
    "",
    " ",
)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer(), TokenizerSettings(eos_token_ids=(2,)))


@pytest.fixture
def hf_directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    write_tokenizer(tmp_path)
    return tmp_path


def test_hf_directory(hf_directory: Path) -> None:
    tokenizer = load_tokenizer(hf_directory)
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.vocab_size == 320
    assert tokenizer.chat_prompt(MESSAGES) == PROMPT
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_gguf_tokenizer_is_the_one_it_was_written_from(tmp_path: Path) -> None:
    ours = load_tokenizer(make_tiny_gguf(tmp_path))
    for text in TEXTS:
        assert ours.encode(text) == tiny_tokenizer().encode(text).ids
    assert ours.eos_token_ids == {0, 2}
    assert ours.chat_prompt(MESSAGES) == PROMPT


def test_missing_and_broken_tokenizer_json(hf_directory: Path) -> None:
    (hf_directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadError, match="no tokenizer that can be read"):
        load_tokenizer(hf_directory)
    (hf_directory / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has neither tokenizer\.json nor tokenizer\.model"):
        load_tokenizer(hf_directory)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
            "no tokenizer that can be read",
        ),
        ("tokenizer.json", "[" * 100_000, "no tokenizer that can be read"),
        ("tokenizer_config.json", '{"chat_template": [1]}', "damaged"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": 1}]}', "not a text"),
        ("tokenizer_config.json", '{"eos_token": {"no": 1}}', "damaged"),
        ("config.json", '{"eos_token_id": 1000000000000000}', "eos_token_id"),
    ],
)
def test_damaged_files_of_a_directory_are_named(hf_directory: Path, name: str, content: str, words: str) -> None:
    (hf_directory / name).write_text(content)
    with pytest.raises(ModelLoadError, match=words) as caught:
        load_tokenizer(hf_directory)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_larger_than_the_embedding_is_refused(hf_directory: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has token 319 \('.*'\), but the model's embedding has only 319 rows"):
        load_tokenizer(hf_directory, num_rows=319)
    assert load_tokenizer(hf_directory, num_rows=320).encode("fish")


def test_an_added_token_without_a_row_is_refused_where_a_text_holds_it(hf_directory: Path) -> None:
    """A padding token that was added to the tokenizer but not to the weights does not hinder any other text."""
    backend = tiny_tokenizer()
    backend.add_special_tokens(["[PAD]"])
    backend.save(str(hf_directory / "tokenizer.json"))
    tokenizer = load_tokenizer(hf_directory, num_rows=320)
    assert tokenizer.encode("fish") == tiny_tokenizer().encode("fish").ids
    with pytest.raises(InvalidRequest, match=r"'\[PAD\]' \(token 320\)"):
        tokenizer.encode("a [PAD]")


def test_a_tokenizer_that_cannot_read_a_text_is_refused(hf_directory: Path) -> None:
    """It loads, but has no token for what it does not know."""
    model = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "continuing_subword_prefix": "##"}
    model["max_input_chars_per_word"] = 100
    (hf_directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    with pytest.raises(ModelLoadError, match="its tokenizer does not work"):
        load_tokenizer(hf_directory)


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    """JSON can write one."""
    with pytest.raises(InvalidRequest, match="surrogate"):
        tokenizer.encode("a\ud800")


def test_template_file_goes_before_the_one_in_the_settings(hf_directory: Path) -> None:
    (hf_directory / "chat_template.jinja").write_text("{{ eos_token }}")
    assert load_tokenizer(hf_directory).chat_prompt(MESSAGES) == "<|im_end|>"


def test_named_templates(hf_directory: Path) -> None:
    path = hf_directory / "tokenizer_config.json"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools | length }}"}]
    path.write_text(json.dumps({"chat_template": named, "eos_token": {"content": "<|im_end|>"}}))
    tokenizer = load_tokenizer(hf_directory)
    assert tokenizer.chat_prompt(MESSAGES) == "plain"
    assert tokenizer.chat_prompt(MESSAGES, tools=[{"type": "function"}]) == "tools 1"
    assert 2 in tokenizer.eos_token_ids


def test_no_template(tokenizer: Tokenizer) -> None:
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidRequest, match="no chat template"):
        tokenizer.chat_prompt(MESSAGES)


def test_template_environment() -> None:
    source = (
        "{%- for m in messages %}\n    {%- if loop.index > 1 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m | tojson }}{% endgeneration %}\n{% endfor %}{{ strftime_now('%%') }}{{ bos_token }}"
    )
    rendered = ChatTemplate(source, {"bos_token": "<s>"}).render([{"content": "é<b>"}, {"content": "no"}])
    assert rendered == '{"content": "é<b>"}%<s>'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0]['content'] + 'x' }}",
        "{{ messages[0].content.missing.deeper }}",
        "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
    ],
)
def test_refused_messages_are_the_requests_fault(source: str) -> None:
    with pytest.raises(InvalidRequest, match="refuses these messages") as caught:
        ChatTemplate(source, {}).render([{"role": "user", "content": None}])
    assert caught.value.param == "messages"


def test_broken_template_is_the_models_fault() -> None:
    with pytest.raises(ModelLoadError, match="chat template cannot be parsed"):
        ChatTemplate("{% for %}", {})


def test_chat_template_agrees_with_transformers(hf_directory: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(hf_directory)
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(CHAT_TEMPLATE, {}).render(MESSAGES) == expected


def test_token_text_keeps_its_space(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" the shoal<|im_end|>")
    assert "".join(tokenizer.token_text(token) for token in ids) == " the shoal<|im_end|>"


@given(text=st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_streamed_text_is_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = tokenizer.detokenizer(skip_special=False)
    pieces = [detokenizer.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text


@given(ids=st.lists(st.integers(0, 319), max_size=15))
@settings(max_examples=150, deadline=None)
def test_streamed_garbage_is_what_decoding_at_once_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    detokenizer = tokenizer.detokenizer()
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == tokenizer.decode(ids)


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🐟b")
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.push(token) for token in ids] == ["a", "", "", "", "🐟", "b"]
    assert detokenizer.push(ids[1]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_window_stays_short(tokenizer: Tokenizer) -> None:
    """Each push decodes a bounded number of tokens, whatever came before, broken bytes and special tokens included."""
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(ids)

    from shoal.model.text.detokenizer import Detokenizer

    detokenizer = Detokenizer(decode, context=list(range(100, 160)))  # type: ignore[arg-type]
    broken = tokenizer.encode("🐟")[:1]
    for token in [*tokenizer.encode("some text") * 20, *broken * 100, *[2] * 100]:
        detokenizer.push(token)
    assert longest <= 40


def test_model_with_a_hostile_template_is_refused_when_it_is_loaded(hf_directory: Path) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (hf_directory / "chat_template.jinja").write_text(loops)
    with pytest.raises(ModelLoadError, match="chat template does not finish") as refusal:
        load_tokenizer(hf_directory)
    assert str(hf_directory) in str(refusal.value)


@given(st.text(max_size=40))
def test_bytes_of_tokens_spell_the_text(tokenizer: Tokenizer, text: str) -> None:
    """Characters that are cut into several tokens included."""
    ids = tokenizer.encode(text, add_special=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_bytes_of_special_tokens_are_their_names(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(token) for token in (0, 1)] == [b"<|endoftext|>", b"<|im_start|>"]


def test_no_token_is_longer_than_the_longest(tokenizer: Tokenizer) -> None:
    assert tokenizer.max_token_chars == len("<|endoftext|>")


def test_many_threads_encode_at_once(tokenizer: Tokenizer) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(tokenizer.encode, TEXTS * 50))
    assert found == [tokenizer.encode(text) for text in TEXTS] * 50

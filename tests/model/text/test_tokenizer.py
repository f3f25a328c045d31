"""Tokenizers of both formats, the cache, chat templates and streaming text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.formats.gguf_header import GgufHeader
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.gguf_bpe import build_byte_level_bpe
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.model.text.tokenizer_files import TokenizerSettings
from tests.model.tiny_models import CHAT_TEMPLATE, make_tiny_gguf, tiny_llama_tensors, tiny_tokenizer, write_gguf
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
    ours = load_tokenizer(make_tiny_gguf(tmp_path), cache_root=tmp_path / "cache")
    for text in TEXTS:
        assert ours.encode(text) == tiny_tokenizer().encode(text).ids
    assert ours.eos_token_ids == {2}
    assert ours.chat_prompt(MESSAGES) == PROMPT


def test_cache_is_used_and_a_broken_one_is_rebuilt(tmp_path: Path) -> None:
    path, cache = make_tiny_gguf(tmp_path), tmp_path / "cache"
    expected = load_tokenizer(path, cache_root=cache).encode(TEXTS[0])
    (entry,) = cache.iterdir()
    good = entry.read_text()
    entry.write_text(good.replace('"unk_token":null', '"unk_token":"<|endoftext|>"'))
    load_tokenizer(path, cache_root=cache)
    assert entry.read_text() != good, "a readable entry is taken as it is"
    entry.write_text(good[:100])
    assert load_tokenizer(path, cache_root=cache).encode(TEXTS[0]) == expected
    assert entry.read_text() == good
    assert list(cache.iterdir()) == [entry]


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert load_tokenizer(make_tiny_gguf(tmp_path), cache_root=tmp_path / "file" / "cache").vocab_size == 320


@pytest.mark.parametrize("split", ["gpt-2", "qwen2", "llama-bpe"])
def test_direct_building_agrees_with_transformers(tmp_path: Path, split: str) -> None:
    transformers = pytest.importorskip("transformers")
    metadata = {"tokenizer.ggml.pre": split}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=metadata)
    ours = build_byte_level_bpe(GgufHeader(path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in (*TEXTS, "It's 12345 o'clock...\r\n\r\n  WE'LL see", "a  b   c    7"):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False), text


def test_sentencepiece_vocabulary_goes_through_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pieces = ["▁", "▁a", "a", "b", "▁fish", "fish", "fi", "sh", "f", "i", "s", "h"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.merges": ["▁ a", "f i", "s h", "fi sh", "▁ fish"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
    }
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=metadata)
    for _ in ("built", "cached"):
        tokenizer = load_tokenizer(path, cache_root=tmp_path / "cache")
        ids = tokenizer.encode("a fish é")
        assert [tokens[token] for token in ids] == ["<s>", "▁a", "▁fish", "▁", "<0xC3>", "<0xA9>"]
        assert tokenizer.decode(ids) == "a fish é"
        assert tokenizer.token_text(tokens.index("▁fish")) == " fish"
        detokenizer = tokenizer.detokenizer(context=ids[:2])
        assert [detokenizer.push(token) for token in ids[2:]] == [" fish", " ", "", "é"]


def test_unknown_kind_of_vocabulary(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.model": "abacus"}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=metadata)
    with pytest.raises(ModelLoadError, match="no tokenizer can be built from its metadata"):
        load_tokenizer(path, cache_root=tmp_path / "cache")


def test_bos_is_put_first_where_the_file_says_so(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": True}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=metadata)
    tokenizer = load_tokenizer(path, cache_root=tmp_path / "cache")
    assert tokenizer.encode("fish")[0] == 0
    assert tokenizer.encode("fish", add_special=False) == tokenizer.encode("fish")[1:]


def test_end_of_turn_in_the_template_ends_a_text(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.eos_token_id": 0}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=metadata)
    assert load_tokenizer(path, cache_root=tmp_path / "cache").eos_token_ids == {0, 2}


def test_missing_and_broken_tokenizer_json(hf_directory: Path) -> None:
    (hf_directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadError, match="no tokenizer that can be read"):
        load_tokenizer(hf_directory)
    (hf_directory / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has no tokenizer\.json"):
        load_tokenizer(hf_directory)


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
    with pytest.raises(ModelLoadError, match="chat template does not end") as refusal:
        load_tokenizer(hf_directory)
    assert str(hf_directory) in str(refusal.value)

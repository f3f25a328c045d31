"""GGUF files that are written: read back to the bit, and by the gguf package as a converter of its own would write
them."""

from __future__ import annotations

import errno
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, quants
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from shoal.errors import CapacityError, ConfigError, ModelLoadError
from shoal.model.conversion import convert_model
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.writing import file as writing
from shoal.model.formats.open_weights import open_weights
from shoal.model.text.tokenizer import load_tokenizer
from shoal.model.text.vocabulary.to_gguf import tokenizer_metadata
from tests.model.converted_gguf import convert
from tests.model.formats.huggingface.quantized.coded_files import CASES, write_quantized
from tests.model.tiny_models import CORPUS, VOCAB_SIZE, make_tiny_gguf, make_tiny_model
from tests.numerics.engines import make_engine, make_executor, random_tokens, text_logits

TEXT = random_tokens(30)
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"hidden_size": 100, "intermediate_size": 84, "tie_word_embeddings": True},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    "phi3": {"tie_word_embeddings": False},
    "granite": {},
    "mixtral": {},
    "qwen2_moe": {"mlp_only_layers": []},
    "qwen3_moe": {"mlp_only_layers": []},
    "glm4_moe": {},
    "gpt_oss": {},
    "gpt2": {"n_inner": 128},
    "falcon": {},
    "cohere": {},
    "glm4": {},
    "ernie4_5_moe": {},
    "ministral3": {},
    "lfm2": {},
    "lfm2_moe": {},
    "qwen3_next": {},
    "qwen3_5_text": {"linear_value_head_dim": 32},
    "qwen3_5_moe_text": {},
    "granitemoehybrid": {"mamba_n_groups": 2},
    "nemotron_h": {},
    "deepseek_v2": {},
    "deepseek_v3": {"rope_parameters": YARN},
    "glm4_moe_lite": {"q_lora_rank": None},
    "gemma3n_text": {"vocab_size_per_layer_input": VOCAB_SIZE, "tie_word_embeddings": True},
    "gemma4_text": {"tie_word_embeddings": True},
}

NEARLY = ("gpt_oss", "ministral3", "deepseek_v3", "qwen3_5_text", "qwen3_5_moe_text", "gemma3n_text")


def logits_of(path: Path, **settings: Any) -> np.ndarray:
    (logits,) = text_logits(make_engine(make_executor(open_weights(path), **settings)), [TEXT])
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model(family, tmp_path / "model", **FAMILIES[family])
    kinds = convert_model(model, tmp_path / "out.gguf", "auto", name="tiny")
    assert set(kinds) == {Kind.F32}
    # Scaled frequencies go through the fp32 of GGUF's numbers; sums over value heads have another order.
    atol = 1e-4 if family in NEARLY else 0
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), logits_of(model), rtol=0, atol=atol)

    ours, theirs = GGUFReader(tmp_path / "out.gguf"), GGUFReader(convert(model, tmp_path / "other.gguf"))
    tensors = {tensor.name: tensor for tensor in ours.tensors}
    for tensor in theirs.tensors:
        if not tensor.name.startswith("blk.0.attn_") or family != "phi3":
            mine = tensors[tensor.name].data  # axes of 1 count for nothing
            np.testing.assert_array_equal(np.squeeze(mine), np.squeeze(tensor.data), err_msg=tensor.name)
    architecture = ours.fields["general.architecture"].contents()
    assert architecture == theirs.fields["general.architecture"].contents()
    for key, said in theirs.fields.items():
        is_needless = key.endswith(
            ("moe.feed_forward_length", "next.feed_forward_length")
        )  # of layers without experts, of which there are none
        if key.startswith(f"{architecture}.") and key in ours.fields and not is_needless:
            assert ours.fields[key].contents() == pytest.approx(said.contents()), key


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma3n_text", {}),
        (
            "gemma4_text",
            {
                "enable_moe_block": True,
                "num_experts": 8,
                "top_k_experts": 3,
                "moe_intermediate_size": 96,
                "use_double_wide_mlp": False,
            },
        ),
    ],
)
def test_tables_of_fewer_tokens_and_experts_beside_an_mlp(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model(family, tmp_path / "model", tie_word_embeddings=True, **settings)
    convert_model(model, tmp_path / "out.gguf", "auto", name="tiny")
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), logits_of(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rope", "tensors"),
    [
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            {"rope_freqs.weight"},
        ),
        ({"rope_type": "linear", "factor": 4.0}, set()),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, set()),
    ],
)
def test_scaled_positions(rope: dict[str, Any], tensors: set[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model("llama", tmp_path / "model", rope_parameters={"rope_theta": 1e4, **rope})
    convert_model(model, tmp_path / "out.gguf", "auto", name="tiny")
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), logits_of(model), rtol=0, atol=1e-4)
    assert {tensor.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors if "rope" in tensor.name} == tensors


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("gptq-4", "Q4_0"),
        ("gptq-4-asymmetric", "Q5_0"),
        ("awq-bf16", "Q5_0"),
        ("ct-int4-group", "Q4_0"),
        ("ct-int8-channel", "Q8_0"),
        ("ct-int8-packed", "F32"),
        ("gptq-4-act-order", "F32"),
        ("nf4", "F32"),
    ],
)
def test_quantized_matrices_keep_their_values(case: str, kind: str, tmp_path: Path) -> None:
    """In the narrowest kind that can hold them. A scale in fp32 is none that GGUF's blocks have."""
    pytest.importorskip("transformers")
    tiny = make_tiny_model("qwen2", tmp_path / "tiny", num_hidden_layers=2)
    values = write_quantized(tiny, tmp_path / "model", CASES[case])
    convert_model(tmp_path / "model", tmp_path / "out.gguf", "auto", name="tiny")
    names = {"attn_q": "self_attn.q_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for tensor in GGUFReader(tmp_path / "out.gguf").tensors:
        if (leaf := tensor.name.split(".")[-2]) in names and tensor.name.endswith("0." + leaf + ".weight"):
            assert tensor.tensor_type.name == kind
            held = quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(held, values[f"model.layers.0.{names[leaf]}.weight"])
    np.testing.assert_array_equal(
        logits_of(tmp_path / "out.gguf", precision="fp32"), logits_of(tmp_path / "model", precision="fp32")
    )


@pytest.mark.parametrize(
    ("precision", "matrices", "head"),
    [
        ("fp32", "F32", "F32"),
        ("fp16", "F16", "F16"),
        ("bf16", "BF16", "BF16"),
        ("int8", "Q8_0", "Q8_0"),
        ("int4", "Q4_1", "Q8_0"),
    ],
)
def test_precisions(precision: Any, matrices: str, head: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model("llama", tmp_path / "model", num_hidden_layers=2)
    convert_model(model, tmp_path / "out.gguf", precision, name="tiny")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["output.weight"]) == (matrices, head)
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    near, exact = logits_of(tmp_path / "out.gguf"), logits_of(model)
    assert np.abs(near - exact).mean() <= {"fp32": 0, "fp16": 1e-3, "bf16": 0.03, "int8": 0.03, "int4": 0.4}[precision]


def test_a_gguf_file_again(tmp_path: Path) -> None:
    """Its blocks and its tokenizer are copied; what is narrower than asked for stays."""
    given = make_tiny_gguf(tmp_path, quant="Q4_1")
    for precision in ("auto", "int8"):
        convert_model(given, tmp_path / f"{precision}.gguf", precision, name="tiny")
        first, second = GGUFReader(given), GGUFReader(tmp_path / f"{precision}.gguf")
        tensors = {tensor.name: tensor for tensor in second.tensors}
        for tensor in first.tensors:
            assert tensors[tensor.name].tensor_type == tensor.tensor_type
            mine = tensors[tensor.name].data  # axes of 1 count for nothing
            np.testing.assert_array_equal(np.squeeze(mine), np.squeeze(tensor.data), err_msg=tensor.name)
        kept = {key for key in first.fields if key.startswith("tokenizer.")}
        assert {key for key in kept if first.fields[key].contents() != second.fields[key].contents()} == set()


def test_the_tokenizer_and_the_chat_template_come_along(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model("llama", tmp_path / "model", vocab_size=331)  # more rows than tokens
    convert_model(model, tmp_path / "out.gguf", "auto", name="tiny")
    ours, theirs = load_tokenizer(tmp_path / "out.gguf", num_rows=331), load_tokenizer(model, num_rows=331)
    for text in (CORPUS, "<|im_start|>user\n12 fish", "\u00fc\u4e2d\U0001f41f"):
        assert ours.encode(text) == theirs.encode(text)
    messages = [{"role": "user", "content": "What is a shoal?"}]
    assert ours.chat_prompt(messages) == theirs.chat_prompt(messages)
    np.testing.assert_array_equal(logits_of(tmp_path / "out.gguf"), logits_of(model))


def sentencepiece_like() -> Tokenizer:
    """As tokenizer.json files of Llama 2 are: pieces with U+2581 for a space, and bytes to fall back to."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special[:3], show_progress=False)
    tokenizer.train_from_iterator([CORPUS], trainer)
    import json

    said = json.loads(tokenizer.to_str())
    vocab = {token: number for number, token in enumerate(special)}
    for token, _ in sorted(said["model"]["vocab"].items(), key=lambda item: item[1]):
        vocab.setdefault(token, len(vocab))
    said["model"]["vocab"] = vocab
    again = Tokenizer.from_str(json.dumps(said))
    again.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return again


def keys_of(backend: Tokenizer) -> dict[str, Any]:
    return tokenizer_metadata(
        backend, num_rows=backend.get_vocab_size(), eos_token_ids=(2,), special_tokens={}, chat_templates={}
    )


def test_pieces_with_bytes_to_fall_back_to() -> None:
    keys = keys_of(sentencepiece_like())
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]


def test_tokenizers_that_have_no_name_are_refused() -> None:
    unigram = Tokenizer(models.Unigram([("a", 0.0)]))
    with pytest.raises(ModelLoadError, match="of the kind 'Unigram'"):
        keys_of(unigram)
    odd = Tokenizer(models.BPE({"a": 0}, []))
    odd.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    with pytest.raises(ModelLoadError, match="splits texts into words"):
        keys_of(odd)


def test_what_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for family, settings, message in (
        ("falcon", {"new_decoder_architecture": False, "parallel_attn": False}, "is_parallel is False and would be"),
        ("llama", {"hidden_act": "gelu"}, "activation is 'gelu' and would be read as 'silu'"),
        ("qwen3_moe", {}, r"whose layers \(1,\) have no experts"),
    ):
        model = make_tiny_model(family, tmp_path / family, **settings)
        with pytest.raises(ModelLoadError, match=message):
            convert_model(model, tmp_path / "out.gguf", "auto", name="tiny")
    assert [path.name for path in tmp_path.iterdir() if "gguf" in path.name] == []


def test_a_file_that_is_there_stays_unless_told(tmp_path: Path) -> None:
    given, out = make_tiny_gguf(tmp_path / "given"), tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already; overwrite it with --force"):
        convert_model(given, out, "auto", name="tiny")
    assert out.read_bytes() == b"mine"
    convert_model(given, out, "auto", name="tiny", overwrite=True)
    open_weights(out)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, folder = make_tiny_gguf(tmp_path / "given"), tmp_path / "out"
    folder.mkdir()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "encode", no_room)
        with pytest.raises(CapacityError, match="the disk is full"):
            convert_model(given, folder / "a.gguf", "auto", name="tiny")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(CapacityError, match=r"0\.0 GB free"):
        convert_model(given, folder / "a.gguf", "auto", name="tiny")
    assert list(folder.iterdir()) == []

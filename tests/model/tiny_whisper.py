"""A tiny random Whisper on disk, with a tokenizer that has its special tokens, and the same in CTranslate2's form.

A clip has 96 frames: 0.96 s.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken

from tests.model.tiny_models import VOCAB_SIZE, tiny_tokenizer

NUM_MELS, NUM_POSITIONS, NUM_LAYERS = 80, 48, 4
LANGUAGES = ("en", "de", "fr")
_TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
SPECIAL = ("<|startoftranscript|>", *(f"<|{one}|>" for one in LANGUAGES), *_TASKS)
NUM_TIMESTAMPS = NUM_POSITIONS + 1
WHISPER_VOCAB = VOCAB_SIZE + len(SPECIAL) + NUM_TIMESTAMPS
END, START = 0, VOCAB_SIZE
FIRST_TIMESTAMP = VOCAB_SIZE + len(SPECIAL)


def make_tiny_whisper(directory: Path, *, seed: int = 0) -> Path:
    """Write a random fp32 model and return `directory`: hidden 64, 4 layers in either half, 4 heads of 16."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=WHISPER_VOCAB,
        num_mel_bins=NUM_MELS,
        d_model=64,
        encoder_layers=NUM_LAYERS,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_layers=NUM_LAYERS,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        max_source_positions=NUM_POSITIONS,
        max_target_positions=128,
        init_std=0.15,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
        suppress_tokens=[1, 2],
        begin_suppress_tokens=[5, END],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.WhisperForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    _write_tokenizer(directory)
    return directory


def _write_tokenizer(directory: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    times = [f"<|{0.02 * number:.2f}|>" for number in range(NUM_TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in times])
    assert tokenizer.get_vocab_size() == WHISPER_VOCAB
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def write_ctranslate2(directory: Path, out: Path) -> Path:
    """The model of a Hugging Face directory as CTranslate2's converter would write it, in fp32."""
    from safetensors.numpy import load_file

    source = load_file(directory / "model.safetensors")
    tensors: dict[str, np.ndarray] = {}
    for part in ("encoder", "decoder"):
        tensors |= _part_tensors(source, part)
    out.mkdir()
    (out / "model.bin").write_bytes(_binary(tensors))
    (out / "config.json").write_text(json.dumps({"suppress_ids": [1, 2], "suppress_ids_begin": [5, END]}))
    (out / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    return out


def _part_tensors(source: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Queries, keys and values under each other; keys have biases of zeros."""
    found = {f"{part}/num_heads": np.array(4, np.int16)}
    names = {"layer_norm/gamma": "layer_norm.weight", "layer_norm/beta": "layer_norm.bias"}
    names |= {f"conv{n}/{leaf}": f"conv{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias") if part == "encoder"}
    names["position_encodings/encodings"] = "embed_positions.weight"
    if part == "decoder":
        names["embeddings/weight"] = "embed_tokens.weight"
    found |= {f"{part}/{name}": source[f"model.{part}.{theirs}"] for name, theirs in names.items()}
    for layer in range(NUM_LAYERS):
        ours, theirs = f"{part}/layer_{layer}", f"model.{part}.layers.{layer}"
        found |= _linear(source, f"{ours}/self_attention/linear_0", theirs, "self_attn", "qkv")
        found |= _linear(source, f"{ours}/self_attention/linear_1", theirs, "self_attn", "o")
        if part == "decoder":
            found |= _linear(source, f"{ours}/attention/linear_0", theirs, "encoder_attn", "q")
            found |= _linear(source, f"{ours}/attention/linear_1", theirs, "encoder_attn", "kv")
            found |= _linear(source, f"{ours}/attention/linear_2", theirs, "encoder_attn", "o")
        halves = {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}
        halves |= {"attention": "encoder_attn_layer_norm"} if part == "decoder" else {}
        for half, norm in halves.items():
            found[f"{ours}/{half}/layer_norm/gamma"] = source[f"{theirs}.{norm}.weight"]
            found[f"{ours}/{half}/layer_norm/beta"] = source[f"{theirs}.{norm}.bias"]
        for number in (1, 2):
            for leaf in ("weight", "bias"):
                found[f"{ours}/ffn/linear_{number - 1}/{leaf}"] = source[f"{theirs}.fc{number}.{leaf}"]
    return found


def _linear(source: dict[str, np.ndarray], name: str, prefix: str, half: str, parts: str) -> dict[str, np.ndarray]:
    projections = [f"{prefix}.{half}.{'out' if part == 'o' else part}_proj" for part in parts]
    weights = [source[f"{one}.weight"] for one in projections]
    biases = [
        source.get(f"{one}.bias", np.zeros(len(w), np.float32)) for one, w in zip(projections, weights, strict=True)
    ]
    return {f"{name}/weight": np.concatenate(weights), f"{name}/bias": np.concatenate(biases)}


def _binary(tensors: dict[str, np.ndarray]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    dtypes = {"float32": 0, "int16": 2}
    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(tensors))]
    for name, values in sorted(tensors.items()):
        parts += [text(name), struct.pack("<B", values.ndim), struct.pack(f"<{values.ndim}I", *values.shape)]
        parts += [struct.pack("<BI", dtypes[str(values.dtype)], values.nbytes), values.tobytes()]
    parts += [struct.pack("<I", 1), text("decoder/projection/weight"), text("decoder/embeddings/weight")]
    return b"".join(parts)

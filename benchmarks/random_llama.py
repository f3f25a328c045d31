"""A Llama-shaped model of 1.1 billion random weights as a GGUF file, for speed alone: it says nothing sensible.

The shape and the formats are TinyLlama 1.1B's as llama.cpp quantizes it to Q4_0: 4-bit blocks, the head in Q6_K, some
640 MB. The same seed gives the same bytes. The vocabulary is made up too (bytes, then pairs of bytes), whole enough for
every program that reads GGUF files to load it.

python benchmarks/random_llama.py FILE.gguf
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _INTERMEDIATE, _VOCAB = 2048, 22, 32, 4, 5632, 32000
_CONTEXT = 2048
_SPECIAL = ("<unk>", "<s>", "</s>")
_SEED = 20260101
_Q4_0_SPREAD = 4.61
"""standard deviation of a whole number that is equally often any of -8 to 7"""
_Q6_K_SPREAD = 18.47
"""the same for -32 to 31"""
_Q6_K_SUB_SCALE = 32
"""every sub-block's own 8-bit scale"""


def random_llama(folder: Path | None = None) -> Path:
    """The file in `folder` (default: the user's cache), written at the first call."""
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shoal" / "benchmarks"
    path = folder / "random-llama-1.1b-q4_0.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_random_llama(path)
    return path


def write_random_llama(path: Path) -> None:
    """Write the file, whole or not at all."""
    partial = path.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    _add_shape(writer)
    _add_tokenizer(writer)
    rng = np.random.default_rng(_SEED)
    for name, rows, columns in _matrices():
        if name == "output.weight":
            writer.add_tensor(name, _q6_k(rng, rows, columns), raw_dtype=GGMLQuantizationType.Q6_K)
        else:
            writer.add_tensor(name, _q4_0(rng, rows, columns), raw_dtype=GGMLQuantizationType.Q4_0)
    for name in _norms():
        writer.add_tensor(name, np.ones(_HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _add_shape(writer: GGUFWriter) -> None:
    writer.add_name("Random Llama 1.1B")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_INTERMEDIATE)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCAB)
    writer.add_file_type(2)  # mostly Q4_0


def _add_tokenizer(writer: GGUFWriter) -> None:
    """Byte-level BPE: three special tokens, every byte, and as many pairs of bytes as there is room for."""
    letters = _byte_letters()
    pairs = list(islice(product(letters, letters), _VOCAB - len(_SPECIAL) - len(letters)))
    tokens = [*_SPECIAL, *letters, *("".join(pair) for pair in pairs)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _byte_letters() -> list[str]:
    """A visible character for each byte. Source: bytes_to_unicode in openai/gpt-2, src/encoder.py."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, visible), *(chr(256 + index) for index in range(256 - len(visible)))]


def _matrices() -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns."""
    kv_rows = _HIDDEN // _HEADS * _KV_HEADS
    yield "token_embd.weight", _VOCAB, _HIDDEN
    for layer in range(_LAYERS):
        yield f"blk.{layer}.attn_q.weight", _HIDDEN, _HIDDEN
        yield f"blk.{layer}.attn_k.weight", kv_rows, _HIDDEN
        yield f"blk.{layer}.attn_v.weight", kv_rows, _HIDDEN
        yield f"blk.{layer}.attn_output.weight", _HIDDEN, _HIDDEN
        yield f"blk.{layer}.ffn_gate.weight", _INTERMEDIATE, _HIDDEN
        yield f"blk.{layer}.ffn_up.weight", _INTERMEDIATE, _HIDDEN
        yield f"blk.{layer}.ffn_down.weight", _HIDDEN, _INTERMEDIATE
    yield "output.weight", _VOCAB, _HIDDEN


def _norms() -> Iterator[str]:
    for layer in range(_LAYERS):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"
    yield "output_norm.weight"


def _q4_0(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of 32: a half-precision scale, then 32 nibbles. Source: block_q4_0 in ggml-common.h."""
    blocks = rng.integers(0, 256, (rows, columns // 32, 18), np.uint8)
    blocks[:, :, :2] = _half(1 / (_Q4_0_SPREAD * columns**0.5))
    return blocks.reshape(rows, -1)


def _q6_k(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of 256: low and high bits, 16 scales of 8 bits, a half-precision scale. Source: block_q6_K, as above."""
    blocks = rng.integers(0, 256, (rows, columns // 256, 210), np.uint8)
    blocks[:, :, 192:208] = _Q6_K_SUB_SCALE
    blocks[:, :, 208:] = _half(1 / (_Q6_K_SPREAD * _Q6_K_SUB_SCALE * columns**0.5))
    return blocks.reshape(rows, -1)


def _half(value: float) -> npt.NDArray[np.uint8]:
    return np.array([value], np.float16).view(np.uint8)


if __name__ == "__main__":
    write_random_llama(Path(sys.argv[1]))

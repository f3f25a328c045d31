"""Models of random weights as GGUF files in the shapes of well-known ones, for speed and memory alone: they say nothing
sensible.

Formats and mixes are those of llama.cpp's quantizer. The same seed gives the same bytes. The vocabulary is made up too
(bytes, then pairs and triples of bytes), whole enough for every program that reads GGUF files to load it.

python benchmarks/random_models.py llama-1.1b-q4_0 FILE.gguf
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType
from random_blocks import random_blocks

Matrix = tuple[str, GGMLQuantizationType, int, int]
"""Name, format, rows and columns; of all experts under each other."""
Vector = tuple[str, np.ndarray]
_SPECIAL = ("<unk>", "<s>", "</s>")
_SEED = 20260101
_FILE_TYPES = {"Q4_0": 2, "Q4_K_M": 15}
"""Source: llama_ftype in llama.h."""
_FALLBACKS = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}
"""Formats of matrices whose columns are no whole blocks of 256. Source: llama-quant.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes and format of a model."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    context: int
    rope_base: float
    norm_epsilon: float
    has_bias: bool = False
    """whether queries, keys and values have one"""
    has_qk_norm: bool = False
    """of every query and key head"""
    head_dim: int = 0
    """0: hidden size over heads"""
    experts: int = 0
    """of every layer, in the place of one MLP; `intermediate` is then the columns of each"""
    chosen: int = 0
    """experts that a token goes through"""
    hottest: float = 1.0
    """norm of the last expert's row of each router; rows before it fall evenly down to 1, and are chosen less often"""
    mix: str
    """Q4_0 or Q4_K_M"""

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden // self.heads


SHAPES = {
    "llama-1.1b-q4_0": Shape(
        architecture="llama", hidden=2048, layers=22, heads=32, kv_heads=4, intermediate=5632, vocab=32_000,
        context=2048, rope_base=1e4, norm_epsilon=1e-5, mix="Q4_0",
    ),
    "qwen2-0.5b-q4_k_m": Shape(
        architecture="qwen2", hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864, vocab=151_936,
        context=32_768, rope_base=1e6, norm_epsilon=1e-6, has_bias=True, mix="Q4_K_M",
    ),
    "llama-8b-q4_k_m": Shape(
        architecture="llama", hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256,
        context=8192, rope_base=5e5, norm_epsilon=1e-5, mix="Q4_K_M",
    ),
    "qwen3-moe-3b-q4_0": Shape(
        architecture="qwen3moe", hidden=1024, layers=20, heads=16, kv_heads=2, head_dim=128, intermediate=384,
        experts=128, chosen=8, vocab=64_000, context=32_768, rope_base=1e6, norm_epsilon=1e-6, has_qk_norm=True,
        mix="Q4_0",
    ),
    "qwen3-moe-3b-hot-q4_0": Shape(
        architecture="qwen3moe", hidden=1024, layers=20, heads=16, kv_heads=2, head_dim=128, intermediate=384,
        experts=128, chosen=8, hottest=3.0, vocab=64_000, context=32_768, rope_base=1e6, norm_epsilon=1e-6,
        has_qk_norm=True, mix="Q4_0",
    ),
}  # fmt: skip
"""TinyLlama 1.1B, Qwen2.5 0.5B with a head of its own, Llama 3 8B, and Qwen3 30B-A3B with half its width and 20 of its
48 layers: 3 billion weights, of which a token goes through 0.35; once more with some experts hotter than others."""


def random_model(name: str, folder: Path | None = None) -> Path:
    """The file of one of the SHAPES in `folder` (default: the user's cache), written at the first call."""
    folder = folder or cache_folder()
    path = folder / f"random-{name}.gguf"
    if not path.exists():
        write_random_model(SHAPES[name], path)
    return path


def cache_folder() -> Path:
    """Where made model files are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shoal" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_random_model(shape: Shape, path: Path) -> None:
    """Write the file of a shape."""

    def settings(writer: GGUFWriter) -> None:
        _add_shape(writer, shape)
        add_tokenizer(writer, shape.vocab)

    write_random_file(path, shape.architecture, settings, _matrices(shape), _vectors(shape), experts=shape.experts)


def write_random_file(
    path: Path,
    architecture: str,
    add_settings: Callable[[GGUFWriter], None],
    matrices: Iterable[Matrix],
    vectors: Iterable[Vector],
    *,
    experts: int = 0,
) -> None:
    """Write a file, whole or not at all, one matrix at a time.

    Args:
        path: of the file.
        architecture: of the model.
        add_settings: writes all other metadata.
        matrices: of random blocks.
        vectors: and small matrices, as they are.
        experts: that lie in one matrix.
    """
    partial = path.with_suffix(".partial")
    writer = GGUFWriter(partial, architecture)
    add_settings(writer)
    matrices, vectors = list(matrices), list(vectors)
    for name, kind, rows, columns in matrices:
        block_len, num_bytes = GGML_QUANT_SIZES[kind]
        row_bytes = columns // block_len * num_bytes
        stack = (experts, rows // experts) if "_exps." in name else (rows,)
        writer.add_tensor_info(name, (*stack, row_bytes), np.dtype(np.uint8), rows * row_bytes, kind)
    for name, vector in vectors:
        writer.add_tensor_info(name, vector.shape, vector.dtype, vector.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(_SEED)
    for _, kind, rows, columns in matrices:
        writer.write_tensor_data(random_blocks(kind, rng, rows, columns))
    for _, vector in vectors:
        writer.write_tensor_data(vector)
    writer.close()
    partial.replace(path)


def _add_shape(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name(f"Random {shape.architecture} {shape.hidden} x {shape.layers}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.chosen)
        writer.add_expert_feed_forward_length(shape.intermediate)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(_FILE_TYPES[shape.mix])


def add_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """Byte-level BPE: three special tokens, every byte, and as many pairs and then triples as there is room for."""
    letters = _byte_letters()
    pairs, triples = product(letters, letters), product(letters, letters, letters)
    merges = chain(pairs, ((first + second, third) for first, second, third in triples))
    merged = list(islice(merges, vocab - len(_SPECIAL) - len(letters)))
    tokens = [*_SPECIAL, *letters, *("".join(parts) for parts in merged)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_merges([" ".join(parts) for parts in merged])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _byte_letters() -> list[str]:
    """A visible character for each byte. Source: bytes_to_unicode in openai/gpt-2, src/encoder.py."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, visible), *(chr(256 + index) for index in range(256 - len(visible)))]


def _matrices(shape: Shape) -> Iterator[Matrix]:
    hidden, q_rows, kv_rows = shape.hidden, shape.head_width * shape.heads, shape.head_width * shape.kv_heads
    count, suffix = (shape.experts, "_exps") if shape.experts else (1, "")
    columns = count * shape.intermediate
    usual, finer = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_0
    if shape.mix == "Q4_K_M":
        usual, finer = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K
    yield "token_embd.weight", _fitting(usual, hidden), shape.vocab, hidden
    for layer in range(shape.layers):
        sensitive = finer if _is_finer(layer, shape.layers) else usual
        yield f"blk.{layer}.attn_q.weight", _fitting(usual, hidden), q_rows, hidden
        yield f"blk.{layer}.attn_k.weight", _fitting(usual, hidden), kv_rows, hidden
        yield f"blk.{layer}.attn_v.weight", _fitting(sensitive, hidden), kv_rows, hidden
        yield f"blk.{layer}.attn_output.weight", _fitting(usual, q_rows), hidden, q_rows
        yield f"blk.{layer}.ffn_gate{suffix}.weight", _fitting(usual, hidden), columns, hidden
        yield f"blk.{layer}.ffn_up{suffix}.weight", _fitting(usual, hidden), columns, hidden
        down = _fitting(sensitive, shape.intermediate)
        yield f"blk.{layer}.ffn_down{suffix}.weight", down, count * hidden, shape.intermediate
    yield "output.weight", _fitting(GGMLQuantizationType.Q6_K, hidden), shape.vocab, hidden


def _fitting(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The format, or the one in its place where a row is no whole number of its blocks."""
    return _FALLBACKS[kind] if columns % GGML_QUANT_SIZES[kind][0] else kind


def _is_finer(layer: int, num_layers: int) -> bool:
    """Whether Q4_K_M gives the layer's values and down projection 6 bits. Source: use_more_bits in llama-quant.cpp."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _vectors(shape: Shape) -> Iterator[Vector]:
    """Norms of ones and biases of zeros, and routers that send each token somewhere else."""
    norm, kv_rows, rng = np.ones(shape.hidden, np.float32), shape.head_width * shape.kv_heads, np.random.default_rng(0)
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight", norm
        yield f"blk.{layer}.ffn_norm.weight", norm
        if shape.experts:
            router = rng.standard_normal((shape.experts, shape.hidden), np.float32) / np.float32(shape.hidden**0.5)
            router *= np.linspace(1.0, shape.hottest, shape.experts, dtype=np.float32)[:, np.newaxis]
            yield f"blk.{layer}.ffn_gate_inp.weight", router
        if shape.has_qk_norm:
            for part in "qk":
                yield f"blk.{layer}.attn_{part}_norm.weight", np.ones(shape.head_width, np.float32)
        if shape.has_bias:
            for part, rows in (("q", shape.hidden), ("k", kv_rows), ("v", kv_rows)):
                yield f"blk.{layer}.attn_{part}.bias", np.zeros(rows, np.float32)
    yield "output_norm.weight", norm


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a model of random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    write_random_model(SHAPES[given.shape], given.file)

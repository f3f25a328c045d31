"""The meaning of the inputs and outputs of a language model's graph.

Source: optimum's exports of text generation with past, and onnxruntime-genai's model builder, which use the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.errors import ModelLoadError
from shoal.protocol.stage_interface import Dim, TensorSpec

IDS, MASK, POSITIONS, USES_CACHE, LOGITS = "input_ids", "attention_mask", "position_ids", "use_cache_branch", "logits"
KEPT_LOGITS = "num_logits_to_keep"
"""Input for the number of last tokens whose logits are wanted; 0: all."""
_PLAIN = (IDS, MASK, POSITIONS, USES_CACHE, KEPT_LOGITS)
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_PRESENT = "present{0}.{1}.{2}"
_CACHE_TYPES = ("float32", "float16", "bfloat16")
_MAX_LAYERS = 1024
_CACHE_RANK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTensor:
    """The keys or the values of one layer: [B, heads, tokens, dim]."""

    past: str
    """Name of the input."""
    present: str
    """Name of the output, which contains the past and the new tokens."""
    num_heads: int
    dim: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageGraphForm:
    """The form of one graph."""

    dtypes: Mapping[str, str]
    """Types of the inputs other than the caches."""
    caches: tuple[CacheTensor, ...]
    """Keys and values of each layer in turn."""
    batch: int | None
    """Number of rows that every run must have; None: any number."""
    vocab_size: int | None
    """None: the graph does not give it."""

    @property
    def num_layers(self) -> int:
        """Number of layers that have keys and values."""
        return len(self.caches) // 2


def read_form(
    what: object,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    num_heads: int | None = None,
    head_dim: int | None = None,
) -> LanguageGraphForm:
    """Identify the inputs of a graph.

    Args:
        what: the graph's name in errors.
        inputs: of the graph.
        outputs: of the graph.
        num_heads: of keys and values, if the graph does not give it; None: unknown.
        head_dim: of a head, likewise.

    Raises:
        ModelLoadError: an input is unknown or missing, or has a shape that is not that of a cache.
    """
    taken = [spec for spec in inputs if not spec.is_optional]
    pasts = {spec.name: spec for spec in taken if _PAST.fullmatch(spec.name)}
    plain = {spec.name: spec for spec in taken if spec.name not in pasts}
    if unknown := sorted(plain.keys() - {*_PLAIN}):
        raise ModelLoadError(
            f"{what}: the input {unknown[0]!r} is not supported; a language model has {', '.join(_PLAIN)}, "
            "past_key_values.N.key and past_key_values.N.value"
        )
    if IDS not in plain:
        raise ModelLoadError(f"{what}: there is no input {IDS!r}, which a language model needs")
    found = {spec.name: spec for spec in outputs}
    if LOGITS not in found:
        raise ModelLoadError(f"{what}: there is no output {LOGITS!r}, only {', '.join(found)[:200]}")
    names = _in_order(what, pasts)
    vocab = (found[LOGITS].shape or (None,))[-1]
    return LanguageGraphForm(
        dtypes={name: spec.dtype for name, spec in plain.items()},
        caches=tuple(_cache(what, pasts[name], found, (num_heads, head_dim)) for name in names),
        batch=_fixed((plain[IDS].shape or (None,))[0]),
        vocab_size=_fixed(vocab),
    )


def _in_order(what: object, pasts: Mapping[str, TensorSpec]) -> list[str]:
    num_layers = len(pasts) // 2
    names = [f"past_key_values.{layer}.{part}" for layer in range(num_layers) for part in ("key", "value")]
    if not 0 < num_layers <= _MAX_LAYERS or {*names} != {*pasts}:
        raise ModelLoadError(f"{what}: the inputs past_key_values are not a key and a value of layers 0, 1 and so on")
    return names


def _cache(
    what: object, spec: TensorSpec, outputs: Mapping[str, TensorSpec], said: tuple[int | None, int | None]
) -> CacheTensor:
    """`said`: heads and dimensions, if the graph leaves them open. Raises ModelLoadError."""
    match = _PAST.fullmatch(spec.name)
    assert match is not None
    presents = [_PRESENT.format(infix, *match.groups()) for infix in ("", "_key_values")]
    present = next((name for name in presents if name in outputs), None)
    if present is None:
        raise ModelLoadError(f"{what}: there is no output {presents[0]!r} for the input {spec.name!r}")
    shape = spec.shape or ()
    _, heads, tokens, width = shape if len(shape) == _CACHE_RANK else (0, 0, 0, 0)
    num_heads, dim = _fixed(heads) or said[0], _fixed(width) or said[1]
    if num_heads is None or dim is None or isinstance(tokens, int):
        raise ModelLoadError(
            f"{what}: {spec.name} has the shape {list(shape)}, but caches of [batch, heads, tokens, dimensions] with "
            "any number of tokens are supported"
        )
    if spec.dtype not in _CACHE_TYPES or outputs[present].dtype != spec.dtype:
        raise ModelLoadError(
            f"{what}: {spec.name} is of {spec.dtype}; caches of {', '.join(_CACHE_TYPES)} are supported"
        )
    return CacheTensor(past=spec.name, present=present, num_heads=num_heads, dim=dim, dtype=spec.dtype)


def _fixed(dim: Dim) -> int | None:
    return dim if isinstance(dim, int) and dim > 0 else None

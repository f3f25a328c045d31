"""The forms of a model's quantized matrices by its settings alone: for sizes, if there are no weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.weights import CodedKind, CodeKind, NumberKind

_NF4_BLOCK = 64
"""Weights that share a scale. Source: the default of bitsandbytes, as settings do not give it."""
_NO_LINEAR_LAYERS = ("router", "shared_router")
"""Matrices of layers that no method quantizes."""
_MODULES = {
    **{name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
"""Names of matrices in settings that exclude them from quantization."""


class QuantizedSettings:
    """The quantization that a config.json describes. Raises ModelLoadError if sizes do not follow from it."""

    def __init__(self, where: Path, settings: Mapping[str, Any]) -> None:
        """`settings`: the `quantization_config`, whose method is known."""
        self._where, self._settings = where, settings
        weights = self._weights() if settings["quant_method"] == "compressed-tensors" else settings
        self._codes: CodeKind
        self._scales: NumberKind
        self._codes, self._scales = self._find_codes(weights)
        self._part_inputs = self._find_part_inputs(weights)
        method = settings["quant_method"]
        symmetric = {
            "gptq": settings.get("sym", True),
            "awq": False,
            "compressed-tensors": weights.get("symmetric", True),
        }
        self._has_zero_points = not symmetric.get(method, True)
        self._is_grouped = method == "gptq" and bool(settings.get("desc_act")) and self._part_inputs is not None
        left_out = settings.get("ignore") or settings.get("modules_to_not_convert") or ()
        self._left_out = [one for one in left_out if isinstance(one, str)]

    def matrix(self, name: str, shape: tuple[int, int]) -> CodedMatrix | None:
        """A matrix of this name and shape [N, K]; None: it is held as in an unquantized model.

        Args:
            name: as in `WeightSource`.
            shape: of the whole matrix.
        """
        if name in ("embedding", "head") or self._is_left_out(name):
            return None
        part = self._part_inputs or shape[1]
        return CodedMatrix(
            where=self._where,
            name=name,
            tensors=frozenset(),
            shape=shape,
            kind=CodedKind(
                codes=self._codes,
                scales=self._scales,
                part_inputs=-(-shape[1] // part) if self._is_grouped else part,
                has_zero_points=self._has_zero_points,
                is_grouped=self._is_grouped,
            ),
            read_codes=lambda rows, columns: self._refuse(),
            read_scales=lambda rows: self._refuse(),
        )

    def _weights(self) -> Mapping[str, Any]:
        """The weights' settings in compressed-tensors, which must be equal for all of its groups of matrices."""
        groups = self._settings.get("config_groups")
        found = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
        if not found or not all(isinstance(one, dict) and one == found[0] for one in found):
            self._fail("quantizes its matrices in more than one way, or in none")
        return found[0]

    def _find_codes(self, weights: Mapping[str, Any]) -> tuple[CodeKind, NumberKind]:
        method, bits = self._settings["quant_method"], weights.get("num_bits", weights.get("bits"))
        if method == "bitsandbytes":
            return ("nf4" if weights.get("load_in_4bit") else "int8"), "float"
        if method in ("fp8", "fbgemm_fp8") or (weights.get("type") == "float" and bits == 8):
            return "e4m3", "float"
        if bits not in (4, 8) or weights.get("type", "int") != "int":
            self._fail(f"has {bits!r:.50} bits, which is not supported")
        return ("int4" if bits == 4 else "int8"), "half"

    def _find_part_inputs(self, weights: Mapping[str, Any]) -> int | None:
        """Inputs that share a scale; None: the whole row does."""
        if self._codes == "nf4":
            return _NF4_BLOCK
        block = weights.get("weight_block_size") or weights.get("block_structure")
        group = block[1] if isinstance(block, list) and len(block) == 2 else weights.get("group_size")
        if group is None or group == -1:
            return None
        if type(group) is not int or group < 1:
            self._fail(f"has groups of {group!r:.50}")
        return group

    def _is_left_out(self, name: str) -> bool:
        _, layer, leaf = name.split(".", 2)
        if leaf in _NO_LINEAR_LAYERS:
            return True
        head, _, last = leaf.rpartition(".")
        module = f"model.layers.{layer}.{'mlp.' + head + '.' + last + '_proj' if head else _MODULES.get(leaf, leaf)}"
        return any(one in module for one in self._left_out)

    def _fail(self, what: str) -> NoReturn:
        method = self._settings["quant_method"]
        raise ModelLoadError(f"{self._where}: its quantization by {method} {what}; only the weights tell their size")

    def _refuse(self) -> NoReturn:
        raise ModelLoadError(f"{self._where}: these are only the settings of a model, without its weights")

"""Access to the keys of a config.json, with errors that tell a user what is wrong.

Families read their settings through it: see `families`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import Activation, DecoderConfig
from shoal.model.formats.config_check import integer, layer_count, number
from shoal.model.layer_config.attention import RopeConfig

ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn", "longrope")
ROPE_NUMBERS = (
    *("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "short_mscale", "long_mscale"),
)
ROPE_LISTS = ("short_factor", "long_factor")
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "relu2",
}
"""Source: transformers, activations.py, ACT2CLS"""
FULL_ATTENTION = "full_attention"
"""Layers with full attention, in `layer_types`."""


class Settings:
    """The settings of one model. A key whose value is null stays null and does not get its default."""

    def __init__(
        self,
        path: Path,
        model_type: str,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        eos_token_ids: tuple[int, ...],
    ) -> None:
        """
        Args:
            path: of the config.json, for errors.
            model_type: of the language model.
            values: what the file says of it.
            defaults: what the file may leave out, because the configuration class of its model type has it.
            eos_token_ids: tokens that end a text.
        """
        self.path, self.model_type = path, model_type
        self._values = {**defaults, **values}
        self._eos_token_ids = eos_token_ids

    def decoder(self, **changes: Any) -> DecoderConfig:
        """The settings of a Llama with these numbers; `changes` is what the family has in addition or does
        differently."""
        hidden_size, num_heads = self.positive("hidden_size"), self.positive("num_attention_heads")
        head_dim = self.head_dim
        common = {
            "family": self.model_type,
            "num_layers": self.num_layers,
            "hidden_size": hidden_size,
            "num_heads": num_heads,
            "num_kv_heads": self.positive("num_key_value_heads", num_heads),
            "head_dim": head_dim,
            "intermediate_size": self.positive("intermediate_size", changes.get("intermediate_size")),
            "vocab_size": self.positive("vocab_size"),
            "max_context": self.positive("max_position_embeddings"),
            "norm_epsilon": self.number("rms_norm_eps", changes.get("norm_epsilon")),
            "rope": changes.get("rope") or self.rope(),
            "tied_embeddings": self.flag("tie_word_embeddings"),
            "activation": self.activation("hidden_act", "silu"),
            "attention_scale": head_dim**-0.5,
            "eos_token_ids": self._eos_token_ids,
        }
        return DecoderConfig(**{**common, **changes})

    def but(self, **values: Any) -> Settings:
        """A copy of the settings in which some values are replaced."""
        return Settings(self.path, self.model_type, {**self._values, **values}, {}, self._eos_token_ids)

    def get(self, key: str) -> Any:
        """A value, or None."""
        return self._values.get(key)

    def flag(self, key: str) -> bool:
        """Whether a switch is present and on."""
        return bool(self.get(key))

    def required(self, key: str, default: Any = None) -> Any:
        """A value that must be there, or the default. Raises ModelLoadError."""
        value = self.get(key)
        if value is None and default is None:
            raise ModelLoadError(f"{self.path}: there is no {key!r}")
        return default if value is None else value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number. Raises ModelLoadError, ValueError."""
        return number(repr(key), self.required(key, default))

    def positive(self, key: str, default: int | None = None) -> int:
        """A positive whole number. Raises ModelLoadError."""
        value = self.required(key, default)
        if type(value) is not int or value <= 0:
            raise ModelLoadError(f"{self.path}: {key!r} is {value!r:.200}, not a positive number")
        return value

    def layers(self, key: str) -> tuple[int, ...]:
        """A list of layer numbers; empty if the key is missing. Raises ValueError."""
        return tuple(integer(repr(key), layer) for layer in self.get(key) or ())

    def refuse(self, key: str, *, unless: Any) -> None:
        """Raises ModelLoadError if a setting is neither null nor the one value that is supported."""
        value = self.get(key)
        if value is not None and value != unless:
            raise ModelLoadError(f"{self.path}: {key!r} is {value!r:.200}, which is not supported, only {unless!r}")

    @property
    def head_dim(self) -> int:
        return self.positive("head_dim", self.positive("hidden_size") // self.positive("num_attention_heads"))

    @property
    def num_layers(self) -> int:
        return layer_count("'num_hidden_layers'", self.positive("num_hidden_layers"))

    def activation(self, key: str, default: Activation) -> Activation:
        """Activation function of the MLP. Raises ModelLoadError if it is not supported."""
        activation = self.get(key)
        if activation is None:
            return default
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ModelLoadError(
                f"{self.path}: activation {activation!r:.200} is not supported; there are {', '.join(ACTIVATIONS)}"
            )
        return ACTIVATIONS[activation]

    def rope(self, layer_type: str = "full_attention", *, is_partial: bool = False) -> RopeConfig:
        """The rotary embedding of one kind of layers. `is_partial`: whether the family may rotate only a part of each
        head."""
        parameters = self.rope_parameters(layer_type)
        share = parameters.get("partial_rotary_factor", self.get("partial_rotary_factor"))
        share = 1.0 if share is None or not is_partial else number("'partial_rotary_factor'", share)
        return RopeConfig(
            theta=number("'rope_theta'", parameters["rope_theta"]),
            rotary_dim=int(self.head_dim * share),
            scaling=self._scaling(parameters),
        )

    def rope_number(self, key: str) -> float | None:
        """Another number of the rotary embedding; None if it is missing. Raises ValueError."""
        value = self.rope_parameters("full_attention").get(key)
        return None if value is None else number(repr(key), value)

    def all_slide(self) -> tuple[int, ...]:
        """`layer_windows` of a model in which all layers slide, if it has a window."""
        return () if self.get("sliding_window") is None else (self.positive("sliding_window"),) * self.num_layers

    def some_slide(self, slides: Callable[[int], bool]) -> tuple[int, ...]:
        """`layer_windows` by `layer_types`, or else by the family's own rule for a layer's number."""
        if self.get("sliding_window") is None:
            return ()
        return self._some_slide(slides, "sliding_window", "sliding_attention")

    def some_chunked(self, is_chunked: Callable[[int], bool]) -> tuple[int, ...]:
        """As `some_slide`, for layers with chunks."""
        if self.get("attention_chunk_size") is None:
            return ()
        return self._some_slide(is_chunked, "attention_chunk_size", "chunked_attention")

    def _some_slide(self, slides: Callable[[int], bool], key: str, kind: str) -> tuple[int, ...]:
        window, num_layers = self.positive(key), self.num_layers
        types = self.get("layer_types")
        if types is None:
            return tuple(window if slides(layer) else 0 for layer in range(num_layers))
        if len(types) != num_layers:
            raise ModelLoadError(f"{self.path}: 'layer_types' has {len(types)} items for {num_layers} layers")
        if unknown := [one for one in types if one not in (FULL_ATTENTION, kind)]:
            raise ModelLoadError(f"{self.path}: 'layer_types' has {unknown[0]!r:.200}, which is not supported")
        return tuple(window if one == kind else 0 for one in types)

    def layers_of_type(self, *kinds: str, others: Sequence[str], default: Sequence[str]) -> tuple[int, ...]:
        """Layers that `layer_types` assigns to some kinds. Raises ModelLoadError for an unknown kind.

        Args:
            kinds: the kinds that are wanted.
            others: further kinds that are allowed.
            default: kinds of all layers, if the file does not give them.
        """
        types = self.get("layer_types")
        types = default if types is None else types
        if len(types) != self.num_layers:
            raise ModelLoadError(f"{self.path}: 'layer_types' has {len(types)} items for {self.num_layers} layers")
        if unknown := [one for one in types if one not in kinds and one not in others]:
            raise ModelLoadError(f"{self.path}: 'layer_types' has {unknown[0]!r:.200}, which is not supported")
        return tuple(layer for layer, one in enumerate(types) if one in kinds)

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """A copy of the settings with other values."""
        return Settings(self.path, self.model_type, {**self._values, **values}, {}, self._eos_token_ids)

    def rope_parameters(self, layer_type: str) -> dict[str, Any]:
        """Parameters of the rotary embedding of one kind of layers.

        transformers 5 has one dictionary, or one for each kind of layers; transformers 4 has `rope_theta` and
        `rope_scaling`. In the older form, a Gemma 3 model's scaling concerns its full-attention layers only.
        """
        theta = self.get("rope_theta")
        old = {**(self.get("rope_scaling") or {}), "rope_theta": 10000.0 if theta is None else theta}
        if layer_type == "sliding_attention":
            old = {"rope_theta": self.get("rope_local_base_freq")}
        new = self.get("rope_parameters") or {}
        if any(isinstance(value, dict) for value in new.values()):
            new = new.get(layer_type) or {}
        return {key: value for part in (old, new) for key, value in part.items() if value is not None}

    def _scaling(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that frequencies depend on, complete in themselves; empty without scaling.

        The multimodal kind does not scale text, which has one position on all axes. The dynamic kind changes nothing up
        to `max_position_embeddings`, which is the longest context that is served: decision 0016.
        """
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if kind == "su" or (kind == "yarn" and "short_factor" in parameters):
            kind = "longrope"
        if kind in ("default", "dynamic", "mrope"):
            return {}
        if kind not in ROPE_TYPES:
            raise ModelLoadError(
                f"{self.path}: rope type {kind!r:.200} is not supported; there are {', '.join(ROPE_TYPES)}"
            )
        scaling: dict[str, Any] = {"rope_type": kind}
        scaling |= {key: number(repr(key), parameters[key]) for key in ROPE_NUMBERS if key in parameters}
        scaling |= {key: _numbers(key, parameters[key]) for key in ROPE_LISTS if key in parameters}
        if "truncate" in parameters:
            scaling["truncate"] = bool(parameters["truncate"])
        if kind == "linear":
            return scaling
        context = self.positive("max_position_embeddings")
        original = self._original_context(scaling, context)
        scaling["original_max_position_embeddings"] = original
        scaling.setdefault("factor", context / original)
        return scaling

    def _original_context(self, scaling: Mapping[str, Any], context: int) -> int:
        """The original context. Phi-3 has it outside the rotary parameters, where it takes precedence."""
        inside = scaling.get("original_max_position_embeddings", context)
        return integer("'original_max_position_embeddings'", self.required("original_max_position_embeddings", inside))


def _numbers(key: str, values: Any) -> list[float]:
    if not isinstance(values, list):
        raise ValueError(f"{key!r} is not a list")
    return [number(repr(key), value) for value in values]

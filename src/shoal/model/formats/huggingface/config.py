"""A DecoderConfig from a Hugging Face config.json, in the forms that transformers 4 and 5 write.

Source of keys and defaults: transformers, models/*/configuration_*.py and modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import Activation, DecoderConfig, RopeConfig
from shoal.model.formats.config_check import check_config, integer, layer_count, number
from shoal.model.formats.model_file import read_json

Family = Literal["llama", "qwen2", "qwen3", "gemma3", "phi3"]
FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
    "phi3": "phi3",
}
_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_QWEN = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_GEMMA3 = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {
        **_LLAMA,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "phi3": {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
}
"""What a file may leave out, because the configuration class of its model type has it as default. A value that is
there and null stands for itself: a Mistral without the key has a window of 4096, one with null has none."""
ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn", "longrope")
ROPE_NUMBERS = (
    *("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
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
}
"""Source: transformers, activations.py, ACT2CLS"""
MAX_TOKEN_ID = 2**31 - 1
"""Tokens are 32-bit numbers everywhere."""
LAYER_TYPES = ("full_attention", "sliding_attention")


def config_from_hf(where: Path) -> DecoderConfig:
    """What config.json and generation_config.json say about the model.

    Args:
        where: the directory that holds them, or the config.json, whatever its name.

    Raises:
        ModelLoadError: an architecture or setting that is not supported, a missing key, or an impossible value.
    """
    path = _config_file(where)
    try:
        config = _HfConfig(path, read_json(path)).config(eos_token_ids_from_hf(where))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelLoadError(f"{path}: holds an impossible value ({error})") from error
    check_config(path, config)
    return config


def eos_token_ids_from_hf(where: Path) -> tuple[int, ...]:
    """Tokens that end a text, from config.json and generation_config.json together. Raises ModelLoadError."""
    path = _config_file(where)
    generation = path.parent / "generation_config.json"
    config = read_json(path)
    text = config.get("text_config")
    eos = _token_ids(path, config) or _token_ids(path, text if isinstance(text, dict) else {})
    eos += _token_ids(generation, read_json(generation)) if generation.exists() else ()
    return tuple(dict.fromkeys(eos))


def stored_dtype(where: Path) -> str:
    """The type that the settings say the weights have, such as `bfloat16`; empty where they do not. Raises
    ModelLoadError."""
    config = read_json(_config_file(where))
    text = config.get("text_config")
    found = (one.get(key) for one in (config, text) if isinstance(one, dict) for key in ("dtype", "torch_dtype"))
    return next((dtype for dtype in found if isinstance(dtype, str)), "")


def _config_file(where: Path) -> Path:
    return where / "config.json" if where.is_dir() else where


def _token_ids(path: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """One or several ids; negative ones, which some files have for none, are left out."""
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(token) is not int or token > MAX_TOKEN_ID for token in ids):
        raise ModelLoadError(f"{path}: 'eos_token_id' is {value!r:.200}, not the number of a token, or several")
    return tuple(token for token in ids if token >= 0)


class _HfConfig:
    def __init__(self, path: Path, raw: Mapping[str, Any]) -> None:
        self._path = path
        model_type = raw.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise ModelLoadError(
                f"{path}: architecture {model_type!r} is not supported; there are {', '.join(FAMILIES)}"
            )
        if raw.get("quantization_config") is not None:
            method = raw["quantization_config"].get("quant_method", "unknown")
            raise ModelLoadError(
                f"{path}: quantization {method!r} is not supported; give the unquantized model or GGUF"
            )
        self._model_type = model_type
        self._family: Family = FAMILIES[model_type]
        text = raw.get("text_config") if model_type == "gemma3" else None
        self._values = {**DEFAULTS[model_type], **(text or raw)}
        if self._get("use_bidirectional_attention"):
            raise ModelLoadError(f"{path}: 'use_bidirectional_attention' is not supported")

    def config(self, eos_token_ids: tuple[int, ...]) -> DecoderConfig:
        hidden_size, num_heads = self._positive("hidden_size"), self._positive("num_attention_heads")
        head_dim = self._positive("head_dim", hidden_size // num_heads)
        gemma3 = self._family == "gemma3"
        attention_bias = self._has("attention_bias", ("llama", "qwen3", "gemma3_text", "gemma3"))
        return DecoderConfig(
            family=self._family,
            num_layers=self._num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=self._positive("num_key_value_heads", num_heads),
            head_dim=head_dim,
            intermediate_size=self._positive("intermediate_size"),
            vocab_size=self._positive("vocab_size"),
            max_context=self._positive("max_position_embeddings"),
            norm_epsilon=self._number("rms_norm_eps"),
            rope=self._rope("full_attention", head_dim),
            local_rope=self._rope("sliding_attention", head_dim) if gemma3 else None,
            tied_embeddings=bool(self._get("tie_word_embeddings")),
            qkv_bias=attention_bias or self._family == "qwen2",
            o_bias=attention_bias,
            mlp_bias=self._has("mlp_bias", ("llama",)),
            qk_norm=self._family in ("qwen3", "gemma3"),
            post_norms=gemma3,
            activation=self._activation(),
            embedding_scale=hidden_size**0.5 if gemma3 else 1.0,
            attention_scale=(self._number("query_pre_attn_scalar") if gemma3 else head_dim) ** -0.5,
            attention_softcap=self._number("attn_logit_softcapping", 0.0) if gemma3 else 0.0,
            final_softcap=self._number("final_logit_softcapping", 0.0) if gemma3 else 0.0,
            layer_windows=self._layer_windows(),
            eos_token_ids=eos_token_ids,
        )

    def _get(self, key: str) -> Any:
        return self._values.get(key)

    def _has(self, key: str, model_types: Collection[str]) -> bool:
        """A switch that only these model types have; in the files of others it means nothing."""
        return self._model_type in model_types and bool(self._get(key))

    def _required(self, key: str, default: Any = None) -> Any:
        value = self._get(key)
        if value is None and default is None:
            raise ModelLoadError(f"{self._path}: there is no {key!r}")
        return default if value is None else value

    def _number(self, key: str, default: float | None = None) -> float:
        return number(repr(key), self._required(key, default))

    def _positive(self, key: str, default: int | None = None) -> int:
        value = self._required(key, default)
        if type(value) is not int or value <= 0:
            raise ModelLoadError(f"{self._path}: {key!r} is {value!r:.200}, not a positive number")
        return value

    @property
    def _num_layers(self) -> int:
        return layer_count("'num_hidden_layers'", self._positive("num_hidden_layers"))

    def _activation(self) -> Activation:
        activation = self._get("hidden_activation" if self._family == "gemma3" else "hidden_act")
        if activation is None:
            return "gelu_tanh" if self._family == "gemma3" else "silu"
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ModelLoadError(
                f"{self._path}: activation {activation!r:.200} is not supported; there are {', '.join(ACTIVATIONS)}"
            )
        return ACTIVATIONS[activation]

    def _rope(self, layer_type: str, head_dim: int) -> RopeConfig:
        """Only Phi-3 rotates a part of each head."""
        parameters = self._rope_parameters(layer_type)
        share = parameters.get("partial_rotary_factor", self._get("partial_rotary_factor"))
        share = 1.0 if share is None or self._family != "phi3" else number("'partial_rotary_factor'", share)
        return RopeConfig(
            theta=number("'rope_theta'", parameters["rope_theta"]),
            rotary_dim=int(head_dim * share),
            scaling=self._scaling(parameters),
        )

    def _rope_parameters(self, layer_type: str) -> dict[str, Any]:
        """transformers 5: one dictionary, or one per kind of layer; transformers 4: `rope_theta` and `rope_scaling`.

        In the older form a Gemma 3 model's scaling concerns its full-attention layers only.
        """
        theta = self._get("rope_theta")
        old = {**(self._get("rope_scaling") or {}), "rope_theta": 10000.0 if theta is None else theta}
        if layer_type == "sliding_attention":
            old = {"rope_theta": self._get("rope_local_base_freq")}
        new = self._get("rope_parameters") or {}
        if any(isinstance(value, dict) for value in new.values()):
            new = new.get(layer_type) or {}
        return {key: value for part in (old, new) for key, value in part.items() if value is not None}

    def _scaling(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Only what the frequencies depend on, complete in itself; empty for none.

        The dynamic kind changes nothing up to `max_position_embeddings`, which is the longest context that is served:
        decision 0016.
        """
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if kind == "su" or (kind == "yarn" and "short_factor" in parameters):
            kind = "longrope"
        if kind in ("default", "dynamic"):
            return {}
        if kind not in ROPE_TYPES:
            raise ModelLoadError(
                f"{self._path}: rope type {kind!r:.200} is not supported; there are {', '.join(ROPE_TYPES)}"
            )
        scaling: dict[str, Any] = {"rope_type": kind}
        scaling |= {key: number(repr(key), parameters[key]) for key in ROPE_NUMBERS if key in parameters}
        scaling |= {key: _numbers(key, parameters[key]) for key in ROPE_LISTS if key in parameters}
        if "truncate" in parameters:
            scaling["truncate"] = bool(parameters["truncate"])
        if kind == "linear":
            return scaling
        context = self._positive("max_position_embeddings")
        original = self._original_context(scaling, context)
        scaling["original_max_position_embeddings"] = original
        scaling.setdefault("factor", context / original)
        return scaling

    def _original_context(self, scaling: Mapping[str, Any], context: int) -> int:
        """Phi-3 has it outside of the rotary parameters, where it counts more than inside."""
        inside = scaling.get("original_max_position_embeddings", context)
        return integer("'original_max_position_embeddings'", self._required("original_max_position_embeddings", inside))

    def _layer_windows(self) -> tuple[int, ...]:
        """Sliding window per layer: from `layer_types`, else from the family's own rule. Llama has none whatever its
        file says; Mistral and Phi-3 have it in every layer."""
        if self._model_type == "llama" or self._get("sliding_window") is None:
            return ()
        if self._family in ("qwen2", "qwen3") and not self._get("use_sliding_window"):
            return ()
        window, num_layers = self._positive("sliding_window"), self._num_layers
        if self._family in ("llama", "phi3"):
            return (window,) * num_layers
        types = self._get("layer_types")
        if types is None:
            types = [self._default_layer_type(layer) for layer in range(num_layers)]
        if len(types) != num_layers:
            raise ModelLoadError(f"{self._path}: 'layer_types' has {len(types)} items for {num_layers} layers")
        if unknown := [kind for kind in types if kind not in LAYER_TYPES]:
            raise ModelLoadError(f"{self._path}: 'layer_types' has {unknown[0]!r:.200}, which is not supported")
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)

    def _default_layer_type(self, layer: int) -> str:
        if self._family == "gemma3":
            every = self._positive("sliding_window_pattern", self._positive("_sliding_window_pattern", 6))
            sliding = (layer + 1) % every != 0
        else:
            sliding = layer >= integer("'max_window_layers'", self._get("max_window_layers"))
        return "sliding_attention" if sliding else "full_attention"


def _numbers(key: str, values: Any) -> list[float]:
    if not isinstance(values, list):
        raise ValueError(f"{key!r} is not a list")
    return [number(repr(key), value) for value in values]

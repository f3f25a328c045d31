"""A DecoderConfig from a Hugging Face config.json, in the forms that transformers 4 and 5 write.

Source of keys and defaults: transformers, models/*/configuration_*.py and modeling_rope_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig, RopeConfig

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
DEFAULTS: dict[Family, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"max_window_layers": 28},
    "qwen3": {"head_dim": 128, "max_window_layers": 28},
    "gemma3": {
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
    },
    "phi3": {},
}
"""What a file may leave out because the configuration class of its family has it as default."""
ROPE_TYPES = ("linear", "llama3", "yarn", "longrope")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelLoadError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: is not a JSON object")
    return value


def config_from_hf(directory: Path) -> DecoderConfig:
    """What config.json and generation_config.json say about the model.

    Raises:
        ModelLoadError: an architecture or setting that is not supported, or a missing key.
    """
    path = directory / "config.json"
    try:
        return _HfConfig(path, read_json(path)).config(eos_token_ids_from_hf(directory))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelLoadError(f"{path}: holds an impossible value ({error})") from error


def eos_token_ids_from_hf(directory: Path) -> tuple[int, ...]:
    """Tokens that end a text, from config.json and generation_config.json together. Raises ModelLoadError."""
    config, generation = read_json(directory / "config.json"), directory / "generation_config.json"
    eos = _token_ids(config.get("eos_token_id")) or _token_ids((config.get("text_config") or {}).get("eos_token_id"))
    eos += _token_ids(read_json(generation).get("eos_token_id")) if generation.exists() else ()
    return tuple(dict.fromkeys(eos))


def _token_ids(value: Any) -> tuple[int, ...]:
    match value:
        case int():
            return (value,)
        case list():
            return tuple(int(token) for token in value)
        case _:
            return ()


class _HfConfig:
    def __init__(self, path: Path, raw: Mapping[str, Any]) -> None:
        self._path = path
        model_type = str(raw.get("model_type"))
        if model_type not in FAMILIES:
            raise ModelLoadError(
                f"{path}: architecture {model_type!r} is not supported; there are {', '.join(FAMILIES)}"
            )
        if "quantization_config" in raw:
            method = raw["quantization_config"].get("quant_method", "unknown")
            raise ModelLoadError(
                f"{path}: quantization {method!r} is not supported; give the unquantized model or GGUF"
            )
        self._family: Family = FAMILIES[model_type]
        self._values = {**DEFAULTS[self._family], **(raw.get("text_config") or raw)}
        self._refuse_unsupported()

    def config(self, eos_token_ids: tuple[int, ...]) -> DecoderConfig:
        hidden_size, num_heads = self._positive("hidden_size"), self._positive("num_attention_heads")
        head_dim = int(self._get("head_dim") or hidden_size // num_heads)
        gemma3 = self._family == "gemma3"
        return DecoderConfig(
            family=self._family,
            num_layers=self._positive("num_hidden_layers"),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=int(self._get("num_key_value_heads") or num_heads),
            head_dim=head_dim,
            intermediate_size=self._positive("intermediate_size"),
            vocab_size=self._positive("vocab_size"),
            max_context=self._positive("max_position_embeddings"),
            norm_epsilon=float(self._required("rms_norm_eps")),
            rope=self._rope("full_attention", head_dim),
            local_rope=self._rope("sliding_attention", head_dim) if gemma3 else None,
            tied_embeddings=bool(self._get("tie_word_embeddings")),
            qkv_bias=self._family == "qwen2",
            qk_norm=self._family in ("qwen3", "gemma3"),
            post_norms=gemma3,
            activation="gelu_tanh" if gemma3 else "silu",
            embedding_scale=hidden_size**0.5 if gemma3 else 1.0,
            attention_scale=float(self._required("query_pre_attn_scalar") if gemma3 else head_dim) ** -0.5,
            attention_softcap=float(self._get("attn_logit_softcapping") or 0.0),
            final_softcap=float(self._get("final_logit_softcapping") or 0.0),
            layer_windows=self._layer_windows(),
            eos_token_ids=eos_token_ids,
        )

    def _get(self, key: str) -> Any:
        return self._values.get(key)

    def _required(self, key: str) -> Any:
        if self._get(key) is None:
            raise ModelLoadError(f"{self._path}: there is no {key!r}")
        return self._get(key)

    def _positive(self, key: str) -> int:
        value = self._required(key)
        if not isinstance(value, int) or value <= 0:
            raise ModelLoadError(f"{self._path}: {key!r} is {value!r}, not a positive number")
        return value

    def _refuse_unsupported(self) -> None:
        for key in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
            if self._get(key):
                raise ModelLoadError(f"{self._path}: {key!r} is not supported")
        wanted = "gelu_pytorch_tanh" if self._family == "gemma3" else "silu"
        activation = self._get("hidden_activation") or self._get("hidden_act") or wanted
        if activation != wanted:
            raise ModelLoadError(f"{self._path}: activation {activation!r} is not supported for {self._family}")

    def _rope(self, layer_type: str, head_dim: int) -> RopeConfig:
        parameters = self._rope_parameters(layer_type)
        share = parameters.get("partial_rotary_factor") or self._get("partial_rotary_factor") or 1.0
        return RopeConfig(
            theta=float(parameters["rope_theta"]),
            rotary_dim=int(head_dim * float(share)),
            scaling=self._scaling(parameters),
        )

    def _rope_parameters(self, layer_type: str) -> dict[str, Any]:
        """transformers 5: one dictionary, or one per kind of layer; transformers 4: `rope_theta` and `rope_scaling`.

        In the older form a Gemma 3 model's scaling concerns its full-attention layers only.
        """
        old = dict(self._get("rope_scaling") or {})
        old["rope_theta"] = self._get("rope_theta") or 10000.0
        if layer_type == "sliding_attention":
            old = {"rope_theta": self._get("rope_local_base_freq")}
        new = self._get("rope_parameters") or {}
        if any(isinstance(value, dict) for value in new.values()):
            new = new.get(layer_type) or {}
        return {**old, **{key: value for key, value in new.items() if value is not None}}

    def _scaling(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Only what the frequencies depend on, complete in itself; empty for none."""
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if kind == "default":
            return {}
        if kind == "su" or (kind == "yarn" and "short_factor" in parameters):
            kind = "longrope"
        if kind not in ROPE_TYPES:
            raise ModelLoadError(
                f"{self._path}: rope type {kind!r} is not supported; there are {', '.join(ROPE_TYPES)}"
            )
        left_out = ("rope_theta", "type", "partial_rotary_factor")
        scaling = {key: value for key, value in parameters.items() if key not in left_out} | {"rope_type": kind}
        if kind == "linear":
            return scaling
        context = self._positive("max_position_embeddings")
        inside = scaling.get("original_max_position_embeddings") or context
        original = int(self._get("original_max_position_embeddings") or inside)
        scaling["original_max_position_embeddings"] = original
        scaling.setdefault("factor", context / original)
        return scaling

    def _layer_windows(self) -> tuple[int, ...]:
        """Sliding window per layer: from `layer_types`, else from the family's own rule."""
        window, num_layers = self._get("sliding_window"), self._positive("num_hidden_layers")
        if not window or (self._family in ("qwen2", "qwen3") and not self._get("use_sliding_window")):
            return ()
        types = self._get("layer_types")
        if types is None:
            types = [self._default_layer_type(layer) for layer in range(num_layers)]
        if len(types) != num_layers:
            raise ModelLoadError(f"{self._path}: 'layer_types' has {len(types)} items for {num_layers} layers")
        return tuple(int(window) if kind == "sliding_attention" else 0 for kind in types)

    def _default_layer_type(self, layer: int) -> str:
        match self._family:
            case "gemma3":
                every = int(self._get("sliding_window_pattern") or self._get("_sliding_window_pattern") or 6)
                sliding = (layer + 1) % every != 0
            case "qwen2" | "qwen3":
                sliding = layer >= int(self._get("max_window_layers"))
            case _:
                sliding = True
        return "sliding_attention" if sliding else "full_attention"

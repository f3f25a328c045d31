"""A DecoderConfig from the metadata of a GGUF file.

Source of the keys: GGUF specification and gguf-py/gguf/constants.py; of the defaults: llama.cpp, src/llama-model.cpp.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig, RopeConfig
from shoal.model.formats.gguf_header import GgufHeader

Family = Literal["llama", "qwen2", "qwen3", "gemma3", "phi3"]
FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "phi3": "phi3",
}
GEMMA3_PATTERN = 6
"""every sixth layer sees everything. Source: Gemma 3 report, arXiv 2503.19786, section 2"""
GEMMA3_LOCAL_THETA = 10000.0
"""Source: the same, section 2"""
GEMMA3_27B_LAYERS = 62
"""the one size whose attention scale is (hidden / heads) ** -0.5. Source: llama.cpp, src/llama-model.cpp"""


def config_from_gguf(header: GgufHeader) -> DecoderConfig:
    """What the metadata and the tensor shapes say about the model.

    Raises:
        ModelLoadError: an architecture that is not supported, or a key that is missing or cannot mean anything.
    """
    try:
        return _GgufMetadata(header).config()
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"{header.path}: the metadata holds an impossible value ({error})") from error


def eos_token_ids_from_gguf(header: GgufHeader) -> tuple[int, ...]:
    """Tokens that end a text, a turn or a message, as far as the metadata names them."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    found = (header.metadata.get(key) for key in keys)
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))


class _GgufMetadata:
    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self._architecture = str(header.metadata.get("general.architecture"))
        if self._architecture not in FAMILIES:
            raise ModelLoadError(
                f"{header.path}: architecture {self._architecture!r} is not supported; there are {', '.join(FAMILIES)}"
            )
        self._family: Family = FAMILIES[self._architecture]
        self._refuse_unsupported()

    def config(self) -> DecoderConfig:
        hidden_size, num_heads = self._positive("embedding_length"), self._positive("attention.head_count")
        head_dim = int(self._get("attention.key_length", hidden_size // num_heads))
        gemma3 = self._family == "gemma3"
        tensors = self._header.tensors
        return DecoderConfig(
            family=self._family,
            num_layers=self._positive("block_count"),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=self._positive("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            intermediate_size=self._positive("feed_forward_length"),
            vocab_size=self._vocab_size(),
            max_context=self._positive("context_length"),
            norm_epsilon=float(self._required("attention.layer_norm_rms_epsilon")),
            rope=self._rope(head_dim),
            local_rope=self._local_rope(head_dim) if gemma3 else None,
            tied_embeddings="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            qk_norm="blk.0.attn_q_norm.weight" in tensors,
            post_norms=gemma3,
            activation="gelu_tanh" if gemma3 else "silu",
            embedding_scale=hidden_size**0.5 if gemma3 else 1.0,
            attention_scale=self._attention_scale(hidden_size, num_heads, head_dim),
            attention_softcap=float(self._get("attn_logit_softcapping", 0.0)),
            final_softcap=float(self._get("final_logit_softcapping", 0.0)),
            layer_windows=self._layer_windows(),
            eos_token_ids=eos_token_ids_from_gguf(self._header),
        )

    def _refuse_unsupported(self) -> None:
        path, metadata = self._header.path, self._header.metadata
        if metadata.get("split.count", 1) > 1:
            raise ModelLoadError(f"{path}: one of {metadata['split.count']} parts; join them: llama-gguf-split --merge")
        if self._get("expert_count", 0):
            raise ModelLoadError(f"{path}: mixture-of-experts models are not supported")
        if "blk.0.attn_output.bias" in self._header.tensors:
            raise ModelLoadError(f"{path}: a bias after attention is not supported")

    def _get(self, key: str, default: Any = None) -> Any:
        return self._header.metadata.get(f"{self._architecture}.{key}", default)

    def _array(self, key: str) -> list[Any] | None:
        return self._header.array(f"{self._architecture}.{key}")

    def _required(self, key: str, default: Any = None) -> Any:
        value = self._get(key, default)
        if values := self._array(key):
            if len(set(values)) > 1:
                raise ModelLoadError(f"{self._header.path}: {self._architecture}.{key} differs between layers")
            value = values[0]
        if value is None:
            raise ModelLoadError(f"{self._header.path}: the metadata has no {self._architecture}.{key}")
        return value

    def _positive(self, key: str, default: int | None = None) -> int:
        value = self._required(key, default)
        if not isinstance(value, int) or value <= 0:
            raise ModelLoadError(f"{self._header.path}: {self._architecture}.{key} is {value!r}, not a positive number")
        return value

    def _vocab_size(self) -> int:
        embedding = self._header.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelLoadError(f"{self._header.path}: there is no tensor 'token_embd.weight'")
        return embedding.num_rows

    def _rope(self, head_dim: int) -> RopeConfig:
        return RopeConfig(
            theta=float(self._get("rope.freq_base", 10000.0)),
            rotary_dim=int(self._get("rope.dimension_count", head_dim)),
            scaling=self._rope_scaling(),
        )

    def _local_rope(self, head_dim: int) -> RopeConfig:
        return RopeConfig(
            theta=float(self._get("rope.freq_base_swa", GEMMA3_LOCAL_THETA)),
            rotary_dim=int(self._get("rope.dimension_count", head_dim)),
        )

    def _rope_scaling(self) -> dict[str, Any]:
        """In Hugging Face's terms. Llama 3 files hold divisors of the frequencies, which `longrope` can express."""
        max_context = self._positive("context_length")
        original = int(self._get("rope.scaling.original_context_length", max_context))
        divisors = self._vector("rope_freqs.weight")
        short, long = self._vector("rope_factors_short.weight"), self._vector("rope_factors_long.weight")
        if divisors or (short and long):
            return {
                "rope_type": "longrope",
                "short_factor": divisors or short,
                "long_factor": divisors or long,
                "factor": max_context / original,
                "original_max_position_embeddings": original,
                "attention_factor": float(self._get("rope.scaling.attn_factor", 1.0)),
            }
        kind = self._get("rope.scaling.type", "none")
        factor = float(self._get("rope.scaling.factor", self._get("rope.scale_linear", 1.0)))
        if kind == "none" or factor in (0.0, 1.0):
            return {}
        if kind not in ("linear", "yarn"):
            raise ModelLoadError(f"{self._header.path}: rope scaling {kind!r} is not supported")
        scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
        return scaling if kind == "linear" else {**scaling, "original_max_position_embeddings": original}

    def _vector(self, name: str) -> list[float] | None:
        if name not in self._header.tensors:
            return None
        return self._header.rows(name).reshape(-1).view(np.float32).tolist()

    def _attention_scale(self, hidden_size: int, num_heads: int, head_dim: int) -> float:
        if self._family == "gemma3" and self._positive("block_count") == GEMMA3_27B_LAYERS:
            return (hidden_size / num_heads) ** -0.5
        return float(self._get("attention.scale", 0.0)) or head_dim**-0.5

    def _layer_windows(self) -> tuple[int, ...]:
        window, num_layers = int(self._get("attention.sliding_window", 0)), self._positive("block_count")
        if not window or self._family in ("qwen2", "qwen3"):
            return ()
        if self._family != "gemma3":
            return (window,) * num_layers
        if pattern := self._array("attention.sliding_window_pattern"):
            return tuple(window if sliding else 0 for sliding in pattern)
        every = int(self._get("attention.sliding_window_pattern", GEMMA3_PATTERN))
        return tuple(0 if (layer + 1) % every == 0 else window for layer in range(num_layers))

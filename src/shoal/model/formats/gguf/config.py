"""Builds a DecoderConfig from the metadata of a GGUF file.

Source of the keys: GGUF specification and gguf-py/gguf/constants.py; of the defaults: llama.cpp, src/llama-model.cpp.
"""

from __future__ import annotations

from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import check_config, integer
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.gguf.layers.recurrent import recurrence_of
from shoal.model.formats.gguf.parts import GgufParts
from shoal.model.formats.gguf.settings.experts import experts_of
from shoal.model.formats.gguf.settings.keys import GgufSettings
from shoal.model.formats.gguf.settings.rope import local_rope_of, rope_of
from shoal.model.formats.gguf.settings.variants import of_layer, window_head_dim, with_variants
from shoal.model.layer_config.attention import LATENT_EPSILON, LatentConfig, QueryScaling, score_factor
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.recurrence.kinds import RecurrenceConfig

LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Number of layers of the one size whose attention scale is (hidden / heads) ** -0.5. Source: llama.cpp, src/models"""
EXPERTS_OF_MAVERICK = 128
SMOLLM3_PATTERN = 4
"""Every fourth layer has no rotary embedding. Source: llama.cpp, src/models/smollm3.cpp"""
MAX_TOKEN_ID = 2**31 - 1


def config_from_gguf(header: GgufParts) -> DecoderConfig:
    """The model's settings from its metadata and the shapes of its tensors.

    Raises:
        ModelLoadError: the architecture is not supported, or a key is missing or has an impossible value.
    """
    try:
        config = _GgufMetadata(header).config()
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"{header.path}: the metadata holds an impossible value ({error})") from error
    check_config(header.path, config)
    return config


def eos_token_ids_from_gguf(header: GgufHeader | GgufParts) -> tuple[int, ...]:
    """Tokens that end a text, a turn or a message, if the metadata name them."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    found = [header.metadata.get(key) for key in keys]
    return tuple(dict.fromkeys(token for token in found if type(token) is int and 0 <= token <= MAX_TOKEN_ID))


class _GgufMetadata(GgufSettings):
    def __init__(self, header: GgufParts) -> None:
        super().__init__(header)
        self._refuse_unsupported()

    def config(self) -> DecoderConfig:
        hidden_size, num_heads = self.positive("embedding_length"), self.positive("attention.head_count")
        head_dim = self.positive("attention.key_length", hidden_size // num_heads)
        head_dim = window_head_dim(self, head_dim)
        known, tensors, experts = self.known, self.header.tensors, experts_of(self)
        windows = self._layer_windows()
        is_parallel = bool(self.get("use_parallel_residual", known.is_parallel))
        own_norms = tensors.keys() & {"blk.0.ffn_norm.weight", "blk.0.attn_norm_2.weight"}
        config = DecoderConfig(
            family=self.architecture,
            num_layers=self.num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=self._num_kv_heads(num_heads),
            head_dim=head_dim,
            intermediate_size=self._columns(experts),
            experts=experts,
            vocab_size=self._vocab_size(),
            max_context=self.positive("context_length"),
            norm_epsilon=self._norm_epsilon(),
            rope=rope_of(self, head_dim),
            local_rope=local_rope_of(self, head_dim) if any(windows) else None,
            tied_embeddings="output.weight" not in tensors,
            qkv_bias=self.has_any(self._first_attention, ("attn_q.bias", "attn_qkv.bias")),
            o_bias=self.has_any(self._first_attention, ("attn_output.bias",)),
            mlp_bias=self.has_any(self.first_with("ffn_down.weight"), ("ffn_down.bias",)),
            **self._qk_norms(num_heads, head_dim),
            norms_rotated=known.norms_rotated,
            unit_qk_norm=self._has_unit_norms(experts),
            centers_norms=known.centers_norms,
            norm_bias="output_norm.bias" in tensors,
            pre_norms=known.pre_norms,
            post_norms=known.post_norms,
            is_parallel=is_parallel,
            shares_norm=is_parallel and not own_norms,
            gated_mlp=known.gated_mlp,
            activation=known.activation,
            attention_sinks=known.attention_sinks,
            embedding_scale=hidden_size**0.5 if known.scales_embedding else self.number("embedding_scale", 1.0),
            learned_positions="position_embd.weight" in tensors,
            residual_scale=self.number("residual_scale", 1.0),
            head_bias="output.bias" in tensors,
            logits_scale=self._logits_scale(),
            no_rope_layers=self._no_rope_layers(windows),
            attention_scale=self._attention_scale(hidden_size, num_heads, head_dim),
            attention_softcap=self.number("attn_logit_softcapping", 0.0),
            final_softcap=self.number("final_logit_softcapping", 0.0),
            query_scaling=self._query_scaling(),
            in_chunks=known.in_chunks,
            gates_attention=known.gates_attention,
            recurrence=self._recurrence(hidden_size),
            **self.halves(),
            layer_windows=windows,
            latent=self._latent(),
            eos_token_ids=eos_token_ids_from_gguf(self.header),
        )
        return with_variants(config, self) if known.has_variants else config

    def _latent(self) -> LatentConfig | None:
        """Latent attention. The file keeps its rows as one key head. Files from before 2025, whose matrices into and
        out of the latent space are not separate, are refused."""
        if self.architecture != "deepseek2":
            return None
        if self.get("attention.key_length_mla") is None:
            raise ModelLoadError(
                f"{self.header.path} was converted before {self.architecture} had attention over compressed "
                "rows; convert it again, or use a newer file"
            )
        rotary_dim = self.positive("rope.dimension_count")
        return LatentConfig(
            query_rank=integer("q_lora_rank", self.get("attention.q_lora_rank", 0)),
            latent_dim=self.positive("attention.kv_lora_rank"),
            plain_dim=self.positive("attention.key_length_mla") - rotary_dim,
            rotary_dim=rotary_dim,
            value_dim=self.positive("attention.value_length_mla"),
            norm_epsilon=LATENT_EPSILON,
        )

    def _norm_epsilon(self) -> float:
        """The value of one of two keys: LayerNorms use the first and RMS norms the second, or the first if that is
        missing."""
        keys = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
        has_first = self.get(keys[0]) is not None
        takes_first = has_first and (self.known.centers_norms or self.get(keys[1]) is None)
        return self.number(keys[0] if takes_first else keys[1])

    def _refuse_unsupported(self) -> None:
        lengths = [self.get(f"attention.{part}_length") for part in ("key", "value")]
        has_own_values = self.get("attention.value_length_mla") is None
        if None not in lengths and lengths[0] != lengths[1] and has_own_values:
            raise ModelLoadError(f"{self.header.path}: keys of {lengths[0]} and values of {lengths[1]} per head")

    def _qk_norms(self, num_heads: int, head_dim: int) -> dict[str, Any]:
        """The kind of norm: over all heads at once, of each head with its own weights, or of each head with the same
        weights."""
        tensor = self.header.tensors.get(f"blk.{self._first_attention}.attn_q_norm.weight")
        shape = () if tensor is None else tensor.shape
        return {
            "qk_norm": tensor is not None,
            "joins_qk_norm": shape == (num_heads * head_dim,) and num_heads > 1,
            "parts_qk_norm": len(shape) == 2,
        }

    def _has_unit_norms(self, experts: ExpertsConfig | None) -> bool:
        """All Llama 4 models have them except the larger one. Source: llama.cpp, src/models/llama4.cpp."""
        return self.architecture == "llama4" and (experts is None or experts.num_experts != EXPERTS_OF_MAVERICK)

    def _query_scaling(self) -> QueryScaling | None:
        if not self.known.has_temperature:
            return self.known.temperature if self._has_chunks() else None
        strength = self.number("attention.temperature_scale", 0.0)
        if strength == 0.0:
            return None
        return QueryScaling(period=self.positive("rope.scaling.original_context_length"), strength=strength)

    def _has_chunks(self) -> bool:
        """A file with a window of 0 has none of Llama 4's chunks, temperature and layers without rotary embedding."""
        return self.get("attention.sliding_window") != 0

    def _logits_scale(self) -> float:
        match self.known.logits_scale:
            case "":
                return 1.0
            case "factor":
                return self.number("logit_scale")
            case "divisor":
                return 1.0 / self.number("logit_scale")

    def _num_kv_heads(self, num_heads: int) -> int:
        """KV heads of a layer. Layers without attention are marked by 0 heads, so the others count; if layers have
        different heads, those of the first layer, which has a window."""
        if self.known.has_variants:
            return integer("head_count_kv", of_layer(self, "attention.head_count_kv", 0))
        own = self._only_nonzero("attention.head_count_kv") if self.known.is_recurrent else None
        return self.positive("attention.head_count_kv", num_heads) if own is None else own

    def _only_nonzero(self, key: str) -> int | None:
        """The one number besides 0 in a list with an item for each layer; None if there is no list, or several
        numbers."""
        counts = {count for count in self.array(key) or [] if count != 0}
        return integer(key, counts.pop()) if len(counts) == 1 else None

    @property
    def _first_attention(self) -> int:
        return self.first_with("attn_k.weight")

    def _recurrence(self, hidden_size: int) -> RecurrenceConfig | None:
        if not self.known.is_recurrent:
            return None
        return recurrence_of(
            self.architecture,
            tensors=self.header.tensors.keys(),
            num_layers=self.num_layers,
            positive=self.positive,
            norm_epsilon=self._norm_epsilon(),
            hidden_size=hidden_size,
        )

    def _columns(self, experts: ExpertsConfig | None) -> int:
        """Columns of the first plain MLP."""
        if self.known.has_variants:
            return integer("feed_forward_length", of_layer(self, "feed_forward_length", 0))
        if self.known.has_single_halves:
            rows = (self.num_rows(f"blk.{layer}.ffn_up.weight") for layer in range(self.num_layers))
            return next((count for count in rows if count), experts.columns if experts is not None else 0)
        has_dense = experts is None or len(experts.dense_layers) > 0
        return self.positive("feed_forward_length") if has_dense or experts is None else experts.columns

    def _no_rope_layers(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        layers = range(self.num_layers)
        match self.known.rotates:
            case "all":
                return ()
            case "none":
                return tuple(layers)
            case "unless told":
                return () if self.get("rope.scaling.finetuned", True) else tuple(layers)
            case "sliding":
                return tuple(layer for layer, window in enumerate(windows) if not window)
            case "three of four" if self.architecture == "llama4" and not self._has_chunks():
                return ()
            case "three of four":
                return tuple(layer for layer in layers if (layer + 1) % SMOLLM3_PATTERN == 0)

    def _vocab_size(self) -> int:
        embedding = self.header.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelLoadError(f"{self.header.path}: there is no tensor 'token_embd.weight'")
        return embedding.shape[0]

    def _attention_scale(self, hidden_size: int, num_heads: int, head_dim: int) -> float:
        if self.num_layers == LAYERS_OF_27B.get(self.architecture):
            return (hidden_size / num_heads) ** -0.5
        if (latent := self._latent()) is not None:
            return latent.query_dim**-0.5 * score_factor(rope_of(self, head_dim))
        return self.number("attention.scale", 0.0) or head_dim**-0.5

    def _layer_windows(self) -> tuple[int, ...]:
        """Mistral files have the architecture llama, for which llama.cpp has no windows; a window in the metadata
        counts here."""
        known, num_layers = self.known, self.num_layers
        window = integer("sliding_window", self.get("attention.sliding_window", known.window))
        if not window or known.slides == "none":
            return ()
        if known.slides == "all":
            return (window,) * num_layers
        if pattern := self.array("attention.sliding_window_pattern"):
            return tuple(window if sliding else 0 for sliding in pattern)
        every = self.positive("attention.sliding_window_pattern", known.pattern)
        return tuple(0 if (layer + 1) % every == 0 else window for layer in range(num_layers))

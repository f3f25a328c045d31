"""A DecoderConfig from the metadata of a GGUF file.

Source of the keys: GGUF specification and gguf-py/gguf/constants.py; of the defaults: llama.cpp, src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import (
    GROUP_SCORES,
    LATENT_EPSILON,
    DecoderConfig,
    ExpertsConfig,
    LatentConfig,
    QueryScaling,
    RopeConfig,
    score_factor,
)
from shoal.model.formats.config_check import MAX_EXTENT, check_config, integer, layer_count, number
from shoal.model.formats.gguf.architectures import ARCHITECTURES
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.layers.recurrent import MIXER_MARKS, recurrence_of
from shoal.model.formats.gguf.layers.variants import VariantSource, of_layer, window_head_dim, with_variants
from shoal.model.formats.gguf.parts import GgufParts
from shoal.model.recurrence.kinds import RecurrenceConfig

GEMMA3_LOCAL_THETA = 10000.0
"""Source: Gemma 3 report, arXiv 2503.19786, section 2"""
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""of the one size whose attention scale is (hidden / heads) ** -0.5. Source: llama.cpp, src/models"""
EXPERTS_OF_MAVERICK = 128
SMOLLM3_PATTERN = 4
"""every fourth layer does not rotate. Source: llama.cpp, src/models/smollm3.cpp"""
SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3
"""Source: llama.cpp, src/llama-hparams.h, llama_expert_gating_func_type"""

MAX_TOKEN_ID = 2**31 - 1
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""that the metadata of rotary embedding are completed by"""


def config_from_gguf(header: GgufParts) -> DecoderConfig:
    """What the metadata and the tensor shapes say about the model.

    Raises:
        ModelLoadError: an architecture that is not supported, or a key that is missing or cannot mean anything.
    """
    try:
        config = _GgufMetadata(header).config()
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"{header.path}: the metadata holds an impossible value ({error})") from error
    check_config(header.path, config)
    return config


def eos_token_ids_from_gguf(header: GgufHeader | GgufParts) -> tuple[int, ...]:
    """Tokens that end a text, a turn or a message, as far as the metadata names them."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    found = [header.metadata.get(key) for key in keys]
    return tuple(dict.fromkeys(token for token in found if type(token) is int and 0 <= token <= MAX_TOKEN_ID))


class _GgufMetadata:
    def __init__(self, header: GgufParts) -> None:
        self._header = header
        self._architecture = str(header.metadata.get("general.architecture"))
        known = ARCHITECTURES.get(self._architecture)
        if known is None:
            raise ModelLoadError(
                f"{header.path}: architecture {self._architecture!r} is not supported; there are "
                f"{', '.join(ARCHITECTURES)}"
            )
        self._known = known
        self._refuse_unsupported()

    def config(self) -> DecoderConfig:
        hidden_size, num_heads = self._positive("embedding_length"), self._positive("attention.head_count")
        head_dim = self._positive("attention.key_length", hidden_size // num_heads)
        head_dim = window_head_dim(self._variants, head_dim)
        known, tensors, experts = self._known, self._header.tensors, self._experts()
        windows = self._layer_windows()
        is_parallel = bool(self._get("use_parallel_residual", known.is_parallel))
        own_norms = tensors.keys() & {"blk.0.ffn_norm.weight", "blk.0.attn_norm_2.weight"}
        config = DecoderConfig(
            family=self._architecture,
            num_layers=self._num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=self._num_kv_heads(num_heads),
            head_dim=head_dim,
            intermediate_size=self._columns(experts),
            experts=experts,
            vocab_size=self._vocab_size(),
            max_context=self._positive("context_length"),
            norm_epsilon=self._norm_epsilon(),
            rope=self._rope(head_dim),
            local_rope=self._local_rope(head_dim) if any(windows) else None,
            tied_embeddings="output.weight" not in tensors,
            qkv_bias=self._has_any(self._first_attention, ("attn_q.bias", "attn_qkv.bias")),
            o_bias=self._has_any(self._first_attention, ("attn_output.bias",)),
            mlp_bias=self._has_any(self._first_with("ffn_down.weight"), ("ffn_down.bias",)),
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
            embedding_scale=hidden_size**0.5 if known.scales_embedding else self._number("embedding_scale", 1.0),
            learned_positions="position_embd.weight" in tensors,
            residual_scale=self._number("residual_scale", 1.0),
            head_bias="output.bias" in tensors,
            logits_scale=self._logits_scale(),
            no_rope_layers=self._no_rope_layers(windows),
            attention_scale=self._attention_scale(hidden_size, num_heads, head_dim),
            attention_softcap=self._number("attn_logit_softcapping", 0.0),
            final_softcap=self._number("final_logit_softcapping", 0.0),
            query_scaling=self._query_scaling(),
            in_chunks=known.in_chunks,
            gates_attention=known.gates_attention,
            recurrence=self._recurrence(hidden_size),
            **self._halves(),
            layer_windows=windows,
            latent=self._latent(),
            eos_token_ids=eos_token_ids_from_gguf(self._header),
        )
        return with_variants(config, self._variants) if known.has_variants else config

    @property
    def _variants(self) -> VariantSource:
        return VariantSource(get=self._get, array=self._array, tensors=self._header.tensors)

    def _latent(self) -> LatentConfig | None:
        """Attention over compressed rows, whose one key head is the file's own. Files from before 2025 have no way
        into the latent space of their own."""
        if self._architecture != "deepseek2":
            return None
        if self._get("attention.key_length_mla") is None:
            raise ModelLoadError(
                f"{self._header.path}: was converted before {self._architecture} had attention over compressed rows; "
                "convert it again, or take a newer file"
            )
        rotary_dim = self._positive("rope.dimension_count")
        return LatentConfig(
            query_rank=integer("q_lora_rank", self._get("attention.q_lora_rank", 0)),
            latent_dim=self._positive("attention.kv_lora_rank"),
            plain_dim=self._positive("attention.key_length_mla") - rotary_dim,
            rotary_dim=rotary_dim,
            value_dim=self._positive("attention.value_length_mla"),
            norm_epsilon=LATENT_EPSILON,
        )

    def _norm_epsilon(self) -> float:
        """Either of two keys, of which LayerNorms have the first and RMS norms the second, unless it is missing."""
        keys = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
        has_first = self._get(keys[0]) is not None
        takes_first = has_first and (self._known.centers_norms or self._get(keys[1]) is None)
        return self._number(keys[0] if takes_first else keys[1])

    def _halves(self) -> dict[str, Any]:
        """Which layers lack one, where each has one alone."""
        if not self._known.has_single_halves:
            return {}
        mixers = tuple(layer for layer in range(self._num_layers) if self._has_any(layer, MIXER_MARKS))
        others = tuple(layer for layer in range(self._num_layers) if layer not in mixers)
        return {"no_mlp_layers": mixers, "no_mixer_layers": others}

    def _has_any(self, layer: int, leaves: Collection[str]) -> bool:
        return any(f"blk.{layer}.{leaf}" in self._header.tensors for leaf in leaves)

    def _refuse_unsupported(self) -> None:
        lengths = [self._get(f"attention.{part}_length") for part in ("key", "value")]
        has_own_values = self._get("attention.value_length_mla") is None
        if None not in lengths and lengths[0] != lengths[1] and has_own_values:
            raise ModelLoadError(f"{self._header.path}: keys of {lengths[0]} and values of {lengths[1]} per head")

    def _qk_norms(self, num_heads: int, head_dim: int) -> dict[str, Any]:
        """Over all heads at once, of each head with its own weights, or of each head with the same weights."""
        tensor = self._header.tensors.get(f"blk.{self._first_attention}.attn_q_norm.weight")
        shape = () if tensor is None else tensor.shape
        return {
            "qk_norm": tensor is not None,
            "joins_qk_norm": shape == (num_heads * head_dim,) and num_heads > 1,
            "parts_qk_norm": len(shape) == 2,
        }

    def _has_unit_norms(self, experts: ExpertsConfig | None) -> bool:
        """Llama 4 has them but for its larger model. Source: llama.cpp, src/models/llama4.cpp."""
        return self._architecture == "llama4" and (experts is None or experts.num_experts != EXPERTS_OF_MAVERICK)

    def _query_scaling(self) -> QueryScaling | None:
        if not self._known.has_temperature:
            return self._known.temperature if self._has_chunks() else None
        strength = self._number("attention.temperature_scale", 0.0)
        if strength == 0.0:
            return None
        return QueryScaling(period=self._positive("rope.scaling.original_context_length"), strength=strength)

    def _has_chunks(self) -> bool:
        """A window of 0 takes Llama 4's chunks, temperature and unrotated layers away."""
        return self._get("attention.sliding_window") != 0

    def _scoring(self) -> Literal["softmax", "sigmoid"]:
        default = SIGMOID if self._known.has_sigmoid else SOFTMAX
        kind = self._get("expert_gating_func", default)
        if kind not in (SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN):
            raise ValueError(f"expert_gating_func is {kind!r:.200}, which is not supported")
        return "sigmoid" if kind == SIGMOID else "softmax"

    def _normalizes_experts(self) -> bool:
        """In glm4moe only if the file says so; most others have no key for it. Source: llama.cpp, src/models, the calls
        of build_moe_ffn."""
        if self._get("expert_gating_func") == SOFTMAX_OF_CHOSEN:
            return True
        default = self._known.normalizes_experts and self._architecture != "glm4moe"
        return bool(self._get("expert_weights_norm", default))

    def _logits_scale(self) -> float:
        match self._known.logits_scale:
            case "":
                return 1.0
            case "factor":
                return self._number("logit_scale")
            case "divisor":
                return 1.0 / self._number("logit_scale")

    def _experts(self) -> ExpertsConfig | None:
        """What the metadata and the shapes say of them."""
        count = integer("expert_count", self._get("expert_count", 0))
        if count == 0:
            return None
        tensors = self._header.tensors
        routed = [layer for layer in range(self._num_layers) if f"blk.{layer}.ffn_gate_inp.weight" in tensors]
        if not routed:
            raise ModelLoadError(f"{self._header.path}: there is no tensor 'blk.0.ffn_gate_inp.weight'")
        first = f"blk.{routed[0]}"
        shared_columns = self._num_rows(f"{first}.ffn_up_shexp.weight")
        num_groups, scoring = self._positive("expert_group_count", 1), self._scoring()
        return ExpertsConfig(
            num_experts=count,
            num_chosen=self._positive("expert_used_count"),
            columns=self._positive("expert_feed_forward_length", self._get("feed_forward_length")),
            scoring=scoring,
            is_normalized=self._normalizes_experts(),
            selection_bias=f"{first}.exp_probs_b.bias" in tensors,
            num_groups=num_groups,
            num_chosen_groups=self._positive("expert_group_used_count", 1),
            num_group_scores=min(GROUP_SCORES, max(1, count // num_groups)) if scoring == "sigmoid" else 1,
            scale=self._number("expert_weights_scale", 0.0) or 1.0,
            router_bias=f"{first}.ffn_gate_inp.bias" in tensors,
            biases=f"{first}.ffn_gate_exps.bias" in tensors,
            mixer_limit=self._known.mixer_limit,
            scales_input=self._known.scales_expert_input,
            shared_columns=shared_columns,
            shared_router=f"{first}.ffn_gate_inp_shexp.weight" in tensors,
            dense_layers=tuple(
                layer
                for layer in range(self._num_layers)
                if layer not in routed and layer not in self._halves().get("no_mlp_layers", ())
            ),
        )

    def _num_kv_heads(self, num_heads: int) -> int:
        """Where layers without attention are told by having none, those of the others; where layers have unlike heads,
        those of the first, which has a window."""
        if self._known.has_variants:
            return integer("head_count_kv", of_layer(self._variants, "attention.head_count_kv", 0))
        own = self._only_nonzero("attention.head_count_kv") if self._known.is_recurrent else None
        return self._positive("attention.head_count_kv", num_heads) if own is None else own

    def _only_nonzero(self, key: str) -> int | None:
        """The one number that a list for all layers has beside 0; None where there is no list, or are several."""
        counts = {count for count in self._array(key) or [] if count != 0}
        return integer(key, counts.pop()) if len(counts) == 1 else None

    @property
    def _first_attention(self) -> int:
        return self._first_with("attn_k.weight")

    def _first_with(self, leaf: str) -> int:
        """The first layer with such a tensor; 0 where there is none."""
        return next((layer for layer in range(self._num_layers) if self._has_any(layer, (leaf,))), 0)

    def _recurrence(self, hidden_size: int) -> RecurrenceConfig | None:
        if not self._known.is_recurrent:
            return None
        return recurrence_of(
            self._architecture,
            tensors=self._header.tensors.keys(),
            num_layers=self._num_layers,
            positive=self._positive,
            norm_epsilon=self._norm_epsilon(),
            hidden_size=hidden_size,
        )

    def _columns(self, experts: ExpertsConfig | None) -> int:
        """Of MLPs that are no experts, in the first layer that has one."""
        if self._known.has_variants:
            return integer("feed_forward_length", of_layer(self._variants, "feed_forward_length", 0))
        if self._known.has_single_halves:
            rows = (self._num_rows(f"blk.{layer}.ffn_up.weight") for layer in range(self._num_layers))
            return next((count for count in rows if count), experts.columns if experts is not None else 0)
        has_dense = experts is None or len(experts.dense_layers) > 0
        return self._positive("feed_forward_length") if has_dense or experts is None else experts.columns

    def _num_rows(self, tensor: str) -> int:
        found = self._header.tensors.get(tensor)
        return 0 if found is None else found.shape[0]

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
        if type(value) is not int or value <= 0:
            raise ModelLoadError(f"{self._header.path}: {self._architecture}.{key} is {value!r}, not a positive number")
        return value

    def _number(self, key: str, default: float | None = None) -> float:
        return number(key, self._required(key, default))

    @property
    def _num_layers(self) -> int:
        """Without layers that predict further tokens."""
        count = self._positive("block_count") - integer("nextn_predict_layers", self._get("nextn_predict_layers", 0))
        return layer_count("block_count", count)

    def _no_rope_layers(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        layers = range(self._num_layers)
        match self._known.rotates:
            case "all":
                return ()
            case "none":
                return tuple(layers)
            case "unless told":
                return () if self._get("rope.scaling.finetuned", True) else tuple(layers)
            case "sliding":
                return tuple(layer for layer, window in enumerate(windows) if not window)
            case "three of four" if self._architecture == "llama4" and not self._has_chunks():
                return ()
            case "three of four":
                return tuple(layer for layer in layers if (layer + 1) % SMOLLM3_PATTERN == 0)

    def _vocab_size(self) -> int:
        embedding = self._header.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelLoadError(f"{self._header.path}: there is no tensor 'token_embd.weight'")
        return embedding.shape[0]

    def _rope(self, head_dim: int) -> RopeConfig:
        """The three tensors that Llama 3 and Phi-3 files have beside the metadata count, too.

        Source: llama.cpp, llama_model::get_rope_factors: divisors of all frequencies go before lists for short and long
        contexts, and every scaling applies beside the divisors.
        """
        divisors = self._vector("rope_freqs.weight")
        return RopeConfig(
            theta=self._number("rope.freq_base", 10000.0),
            rotary_dim=self._rotary_dim(head_dim),
            scaling=self._rope_scaling(has_divisors=divisors is not None),
            divisors=tuple(divisors or ()),
            magnitude=self._number("rope.scaling.attn_factor", 1.0),
        )

    def _local_rope(self, head_dim: int) -> RopeConfig | None:
        if not self._known.local_rope:
            return None
        if self._known.local_rope == "unscaled":
            return replace(self._rope(head_dim), scaling={})
        return RopeConfig(
            theta=self._number("rope.freq_base_swa", GEMMA3_LOCAL_THETA),
            rotary_dim=self._positive("rope.dimension_count_swa", self._rotary_dim(head_dim)),
        )

    def _rotary_dim(self, head_dim: int) -> int:
        return self._positive("rope.dimension_count", head_dim)

    def _rope_scaling(self, *, has_divisors: bool) -> dict[str, Any]:
        """In Hugging Face's terms."""
        max_context = self._positive("context_length")
        original = self._positive("rope.scaling.original_context_length", max_context)
        short, long = self._vector("rope_factors_short.weight"), self._vector("rope_factors_long.weight")
        if (short is None) != (long is None):
            raise ModelLoadError(
                f"{self._header.path}: has rotary factors for short or for long contexts, not for both"
            )
        if short and long and not has_divisors:
            return {
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "factor": max_context / original,
                "original_max_position_embeddings": original,
                "attention_factor": 1.0,
            }
        kind = self._get("rope.scaling.type", "linear")
        factor = number("rope.scaling.factor", self._get("rope.scaling.factor", self._get("rope.scale_linear", 1.0)))
        if kind == "none" or factor in (0.0, 1.0):
            return {}
        if kind not in ("linear", "yarn"):
            raise ModelLoadError(f"{self._header.path}: rope scaling {kind!r} is not supported")
        scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
        if kind == "linear":
            return scaling
        scaling |= {"original_max_position_embeddings": original, **self._yarn()}
        return {**scaling, "truncate": False} if self._architecture == "gpt-oss" else scaling

    def _yarn(self) -> dict[str, Any]:
        """What a file says beyond the factor.

        Source: llama.cpp, convert_hf_to_gguf.py: `yarn_attn_factor` is the configuration's `attention_factor`, and
        `yarn_log_multiplier` its `mscale_all_dim`, beside an `mscale` of 1; llama-context.cpp.
        """
        keys = {
            "beta_fast": "rope.scaling.yarn_beta_fast",
            "beta_slow": "rope.scaling.yarn_beta_slow",
            "attention_factor": "rope.scaling.yarn_attn_factor",
            "extrapolation_factor": "rope.scaling.yarn_ext_factor",
            "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
        }
        given = {ours: self._number(theirs) for ours, theirs in keys.items() if self._get(theirs) is not None}
        if self._architecture == "deepseek2":  # a tenth of it, and `mscale` is the same
            whole = given.get("mscale_all_dim", 0.0) * 10
            return given | {"mscale": whole, "mscale_all_dim": whole}
        return {**given, "mscale": 1.0} if "mscale_all_dim" in given else given

    def _vector(self, name: str) -> list[float] | None:
        tensor = self._header.tensors.get(name)
        if tensor is None:
            return None
        if tensor.kind != Kind.F32 or len(tensor.shape) != 1 or tensor.shape[0] > MAX_EXTENT:
            raise ModelLoadError(f"{self._header.path}: {name} is no list of fp32 numbers")
        values = self._header.rows(name).reshape(-1).view("<f4").astype(np.float64).tolist()
        return [number(name, value) for value in values]

    def _attention_scale(self, hidden_size: int, num_heads: int, head_dim: int) -> float:
        if self._num_layers == LAYERS_OF_27B.get(self._architecture):
            return (hidden_size / num_heads) ** -0.5
        if (latent := self._latent()) is not None:
            return latent.query_dim**-0.5 * score_factor(self._rope(head_dim))
        return self._number("attention.scale", 0.0) or head_dim**-0.5

    def _layer_windows(self) -> tuple[int, ...]:
        """Mistral files are of the architecture llama, which has no window in llama.cpp: it counts where it is said."""
        known, num_layers = self._known, self._num_layers
        window = integer("sliding_window", self._get("attention.sliding_window", known.window))
        if not window or known.slides == "none":
            return ()
        if known.slides == "all":
            return (window,) * num_layers
        if pattern := self._array("attention.sliding_window_pattern"):
            return tuple(window if sliding else 0 for sliding in pattern)
        every = self._positive("attention.sliding_window_pattern", known.pattern)
        return tuple(0 if (layer + 1) % every == 0 else window for layer in range(num_layers))

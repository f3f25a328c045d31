"""The settings of a decoder-only language model as data. One builder serves all families: a family is nothing but these
values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.model.layer_config.attention import LatentConfig, QueryScaling, RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.layer_config.variants import AltUpConfig, HeadShape, LayerInputs
from shoal.model.recurrence.kinds import RecurrenceConfig

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2", "clamped_swiglu"]
"""Activation function of the MLP's gate. `gelu_tanh` is the approximation by a hyperbolic tangent, `relu2` is ReLU
squared, and `clamped_swiglu` is how gpt-oss joins gate and up: see native/layers/functions.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """An audio encoder: two convolutions over a log-mel spectrogram, of which the second halves the number of frames,
    then positions (learned or sinusoidal, read from the file) and layers. Source: Whisper, arXiv 2212.04356, section
    2.2."""

    num_mels: int
    """Mel bands of a frame."""
    layers: DecoderConfig
    """The layers, described as those of a decoder without a vocabulary, whose context is all positions of a clip."""

    @property
    def num_positions(self) -> int:
        """Rows of the encoder's output, the same for every clip."""
        return self.layers.max_context

    @property
    def num_frames(self) -> int:
        """Frames of the spectrogram of a clip."""
        return 2 * self.num_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """What the graph builder, the KV storage and the planner need to know about a model."""

    family: str
    """Name of the family in error messages."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    full_heads: HeadShape | None = None
    """Key heads of layers without a window, where they differ from the others (Gemma 4)."""
    latent: LatentConfig | None = None
    """Latent attention of all layers; None: heads have keys and values of their own."""
    intermediate_size: int
    """Columns of the MLP of layers without experts."""
    layer_columns: tuple[int, ...] = ()
    """MLP columns of each layer, where layers differ (Gemma 3n and 4)."""
    experts: ExpertsConfig | None = None
    vocab_size: int
    max_context: int
    """Longest sequence in tokens that the model was trained for."""
    norm_epsilon: float
    rope: RopeConfig
    local_rope: RopeConfig | None = None
    """Rotary embedding of sliding-window layers, where it differs (Gemma 3)."""
    tied_embeddings: bool = False
    """Whether the head is the embedding matrix."""
    qkv_bias: bool = False
    keys_biased: bool = True
    """Whether keys have a bias where queries and values have one (not in Whisper)."""
    o_bias: bool = False
    """Whether attention's output projection has a bias."""
    mlp_bias: bool = False
    """Whether gate, up and down have biases."""
    qk_norm: bool = False
    """Whether each query and key head has an RMS norm before the rotary embedding (Qwen3, Gemma 3)."""
    joins_qk_norm: bool = False
    """Whether these norms are over all query heads, and over all key heads, at once (OLMo)."""
    parts_qk_norm: bool = False
    """Whether these norms have weights of their own for every head (Command R+, StableLM 2)."""
    norms_rotated: bool = False
    """Whether these norms come after the rotary embedding (Hunyuan)."""
    unit_qk_norm: bool = False
    """Whether layers with a rotary embedding have RMS norms without weights after it (Llama 4)."""
    centers_norms: bool = False
    """Whether all norms are LayerNorms, which subtract the mean, instead of RMS norms."""
    norm_bias: bool = False
    """Whether the norms before attention, the MLP and the head have biases."""
    pre_norms: bool = True
    """Whether there are norms before attention and before the MLP."""
    post_norms: bool = False
    """Whether there are norms after attention and after the MLP, before each residual sum (Gemma 3)."""
    is_parallel: bool = False
    """Whether attention and MLP read the same residual stream, to which both results are added at once (GPT-NeoX)."""
    shares_norm: bool = False
    """Whether the MLP of a parallel layer reads attention's norm and has none of its own (Command R, Phi)."""
    gated_mlp: bool = True
    """Whether an MLP is down(activation(gate) * up) rather than down(activation(up))."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float
    """Factor on q.k, usually head_dim ** -0.5."""
    attention_softcap: float = 0.0
    """Scores become cap * tanh(score / cap); 0: they stay."""
    attention_sinks: bool = False
    """Whether every query head has a learned score that takes part in the softmax but has no value. Source: gpt-oss
    model card, arXiv 2508.10925, section 2."""
    final_softcap: float = 0.0
    """The same cap for logits."""
    residual_scale: float = 1.0
    """Factor on what attention and MLP add to the residual stream (Granite)."""
    head_bias: bool = False
    """Whether logits have a bias (Phi)."""
    learned_positions: bool = False
    """Whether a learned vector for each of the `max_context` positions is added to the embedding (GPT-2)."""
    logits_scale: float = 1.0
    """Factor on the logits before their soft cap (Granite)."""
    no_rope_layers: tuple[int, ...] = ()
    """Layers whose queries and keys are not rotated (SmolLM3)."""
    query_scaling: QueryScaling | None = None
    sees_all: bool = False
    """Whether tokens also see later tokens, as in an encoder's layers."""
    encoder: EncoderConfig | None = None
    """Audio encoder over whose output every layer has cross-attention, between attention and MLP (Whisper)."""
    in_chunks: bool = False
    """Whether windows are fixed chunks: a token sees back to the last multiple of the window (Llama 4)."""
    gates_attention: bool = False
    """Whether attention's result is multiplied by a sigmoid of the hidden state (Qwen3-Next)."""
    recurrence: RecurrenceConfig | None = None
    """The recurrence of layers without attention; None: all layers have attention."""
    no_mixer_layers: tuple[int, ...] = ()
    """Layers that have an MLP or experts, but neither attention nor a recurrence (Nemotron-H)."""
    no_mlp_layers: tuple[int, ...] = ()
    """Layers that have attention or a recurrence, but no MLP."""
    kv_sources: tuple[int, ...] = ()
    """For each layer, the layer whose keys and values it attends over: itself or an earlier one; empty: all have their
    own."""
    keys_as_values: bool = False
    """Whether layers without a window use the output of their key matrix as values, too (Gemma 4)."""
    unit_v_norm: bool = False
    """Whether value heads have RMS norms without weights (Gemma 3n and 4)."""
    layer_scales: bool = False
    """Whether a layer's output is multiplied by a factor (Gemma 4)."""
    layer_inputs: LayerInputs | None = None
    altup: AltUpConfig | None = None
    gate_cuts: tuple[float | None, ...] = ()
    """For each layer, how many standard deviations above their mean the gates of its MLP are cut: what exceeds that
    stays, the rest becomes 0; None: no cut (Gemma 3n)."""
    layer_windows: tuple[int, ...] = ()
    """Sliding window of each layer in tokens, 0 for full attention; empty: all layers have full attention."""
    eos_token_ids: tuple[int, ...] = ()

    @property
    def query_columns(self) -> int:
        """Output columns of the query matrix."""
        return self.num_heads * (self.head_dim if self.latent is None else self.latent.query_dim)

    @property
    def result_columns(self) -> int:
        """Inputs of attention's output projection."""
        return self.num_heads * (self.head_dim if self.latent is None else self.latent.value_dim)

    @property
    def num_head_groups(self) -> int:
        """Groups of query heads that are never divided between shards: heads that read the same KV head. In latent
        attention every shard keeps the latent rows, so each head is a group."""
        return self.num_kv_heads if self.latent is None else self.num_heads

    @property
    def carried_width(self) -> int:
        """Values of a row that one stage passes to the next: the residual streams, and the extra inputs of all
        layers."""
        streams = 1 if self.altup is None else self.altup.num_streams
        inputs = 0 if self.layer_inputs is None else self.num_layers * self.layer_inputs.width
        return streams * self.hidden_size + inputs

    @property
    def last_cut(self) -> int:
        """The last layer that a stage may begin with: layers stay together with those whose keys they attend over."""
        shared = [source for layer, source in enumerate(self.kv_sources) if source != layer]
        return min(shared, default=self.num_layers - 1)

    def layer_heads(self, layer: int) -> HeadShape:
        """Number and size of a layer's key heads."""
        if self.full_heads is not None and not self.window(layer):
            return self.full_heads
        return HeadShape(num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)

    def columns(self, layer: int) -> int:
        """Columns of a layer's plain MLP."""
        return self.layer_columns[layer] if self.layer_columns else self.intermediate_size

    def kv_source(self, layer: int) -> int:
        """The layer whose keys and values a layer attends over."""
        return self.kv_sources[layer] if self.kv_sources else layer

    def has_values(self, layer: int) -> bool:
        """Whether a layer has a value matrix of its own."""
        return self.kv_source(layer) == layer and not (self.keys_as_values and not self.window(layer))

    def gate_cut(self, layer: int) -> float | None:
        """See `gate_cuts`; None: the gates of this layer are not cut."""
        return self.gate_cuts[layer] if self.gate_cuts else None

    def window(self, layer: int) -> int:
        """Sliding window of a layer in tokens, 0 for none."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def has_unit_norm(self, layer: int) -> bool:
        """Whether a layer's rotated queries and keys are normed without weights."""
        return self.unit_qk_norm and layer not in self.no_rope_layers

    def layer_query_scaling(self, layer: int) -> QueryScaling | None:
        """How a layer's queries grow with their position; None: they do not."""
        scaling = self.query_scaling
        if scaling is None or (scaling.only_unrotated and layer not in self.no_rope_layers):
            return None
        return scaling

    def layer_recurrence(self, layer: int) -> RecurrenceConfig | None:
        """The recurrence that a layer has instead of attention; None: it has none."""
        return self.recurrence if self.recurrence is not None and layer in self.recurrence.layers else None

    def has_attention(self, layer: int) -> bool:
        """Whether a layer keeps keys and values."""
        return layer not in self.no_mixer_layers and self.layer_recurrence(layer) is None

    def has_mlp(self, layer: int) -> bool:
        """Whether a layer has an MLP, or experts in its place."""
        return layer not in self.no_mlp_layers

    def layer_experts(self, layer: int) -> ExpertsConfig | None:
        """The experts of a layer; None: it has a plain MLP or none."""
        if self.experts is None or layer in self.experts.dense_layers or not self.has_mlp(layer):
            return None
        return self.experts

    def active_columns(self, layer: int) -> float:
        """MLP columns of a layer that a token passes through."""
        experts = self.layer_experts(layer)
        if experts is not None:
            return experts.active_columns(layer)
        return self.columns(layer) if self.has_mlp(layer) else 0

    @property
    def share_columns(self) -> int:
        """Columns in which shards' parts of MLPs are counted. Where there are experts these are an expert's, as experts
        are most of the model; other MLPs are then cut in the same proportions."""
        return self.experts.columns if self.experts is not None else self.intermediate_size

    def layer_rope(self, layer: int) -> RopeConfig:
        """The rotary embedding that a layer uses."""
        return self.local_rope if self.local_rope is not None and self.window(layer) else self.rope

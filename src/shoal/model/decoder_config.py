"""A decoder-only language model as data: one builder serves every family, the family is only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.model.layer_config.attention import LatentConfig, QueryScaling, RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.layer_config.variants import AltUpConfig, HeadShape, LayerInputs
from shoal.model.recurrence.kinds import RecurrenceConfig

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2", "clamped_swiglu"]
"""Of the MLP's gate. `gelu_tanh` is the approximation by a hyperbolic tangent, `relu2` is ReLU squared, and
`clamped_swiglu` is how gpt-oss joins gate and up: native/layers/functions.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """An encoder of audio: two convolutions over a log-mel spectrogram, of which the second halves the frames, learned
    or sinusoidal positions that the file has, and layers. Source: Whisper, arXiv 2212.04356, section 2.2.
    """

    num_mels: int
    """of a frame"""
    layers: DecoderConfig
    """its layers as those of a decoder without a vocabulary, whose context is all positions of a clip"""

    @property
    def num_positions(self) -> int:
        """Rows of its output; every clip has all of them."""
        return self.layers.max_context

    @property
    def num_frames(self) -> int:
        """Of a clip."""
        return 2 * self.num_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything the graph builder, the KV storage and the planner need to know about a model."""

    family: str
    """as error messages name it"""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    full_heads: HeadShape | None = None
    """key heads of layers without a window where they differ (Gemma 4)"""
    latent: LatentConfig | None = None
    """of every layer; None: heads have keys and values of their own"""
    intermediate_size: int
    """columns of the MLP of layers without experts"""
    layer_columns: tuple[int, ...] = ()
    """the same per layer where they differ (Gemma 3n and 4)"""
    experts: ExpertsConfig | None = None
    vocab_size: int
    max_context: int
    """longest sequence in tokens that the model was made for"""
    norm_epsilon: float
    rope: RopeConfig
    local_rope: RopeConfig | None = None
    """of sliding-window layers where it differs (Gemma 3)"""
    tied_embeddings: bool = False
    """the head is the embedding matrix"""
    qkv_bias: bool = False
    keys_biased: bool = True
    """whether keys have a bias where queries and values have one (not in Whisper)"""
    o_bias: bool = False
    """after attention's output projection"""
    mlp_bias: bool = False
    """of gate, up and down"""
    qk_norm: bool = False
    """RMS norm of every query and key head before the rotary embedding (Qwen3, Gemma 3)"""
    joins_qk_norm: bool = False
    """whether these norms are over all query heads, and all key heads, at once (OLMo)"""
    parts_qk_norm: bool = False
    """whether these norms have weights of their own for every head (Command R+, StableLM 2)"""
    norms_rotated: bool = False
    """whether these norms come behind the rotary embedding (Hunyuan)"""
    unit_qk_norm: bool = False
    """RMS norms without weights behind the rotary embedding, in layers that have one (Llama 4)"""
    centers_norms: bool = False
    """whether all norms are LayerNorms, which subtract the mean, in the place of RMS norms"""
    norm_bias: bool = False
    """of the norms before attention, the MLP and the head"""
    pre_norms: bool = True
    """norms before attention and before the MLP"""
    post_norms: bool = False
    """norms after attention and after the MLP, before each residual sum (Gemma 3)"""
    is_parallel: bool = False
    """whether attention and MLP read the same residual stream, to which both are added at once (GPT-NeoX)"""
    shares_norm: bool = False
    """of a parallel layer: whether its MLP reads attention's norm and has none of its own (Command R, Phi)"""
    gated_mlp: bool = True
    """whether an MLP is down(activation(gate) * up); else down(activation(up))"""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float
    """factor on q.k, usually head_dim ** -0.5"""
    attention_softcap: float = 0.0
    """cap * tanh(score / cap); 0 for none"""
    attention_sinks: bool = False
    """Whether every query head has a score that takes part in the softmax and has no value. Source: gpt-oss model card,
    arXiv 2508.10925, section 2"""
    final_softcap: float = 0.0
    """the same on the logits"""
    residual_scale: float = 1.0
    """factor on what attention and MLP add to the residual stream (Granite)"""
    head_bias: bool = False
    """on the logits (Phi)"""
    learned_positions: bool = False
    """whether a vector of each position, of which there are `max_context`, is added to the embedding (GPT-2)"""
    logits_scale: float = 1.0
    """factor on the logits, before their soft cap (Granite)"""
    no_rope_layers: tuple[int, ...] = ()
    """layers whose queries and keys do not rotate (SmolLM3)"""
    query_scaling: QueryScaling | None = None
    sees_all: bool = False
    """whether a token sees those behind it: of an encoder's layers"""
    encoder: EncoderConfig | None = None
    """of audio, over whose output every layer has attention of its own, between attention and MLP (Whisper)"""
    in_chunks: bool = False
    """whether a window begins at its last multiple in the place of moving on with the token (Llama 4)"""
    gates_attention: bool = False
    """whether attention's result is multiplied by a sigmoid of the hidden state (Qwen3-Next)"""
    recurrence: RecurrenceConfig | None = None
    """of layers that have no attention; None: all have"""
    no_mixer_layers: tuple[int, ...] = ()
    """layers that have an MLP or experts alone, and neither attention nor recurrence (Nemotron-H)"""
    no_mlp_layers: tuple[int, ...] = ()
    """layers that have attention or recurrence alone"""
    kv_sources: tuple[int, ...] = ()
    """The layer whose keys and values a layer attends over: itself or an earlier one; empty: all have their own."""
    keys_as_values: bool = False
    """whether layers without a window take as values what becomes their keys (Gemma 4)"""
    unit_v_norm: bool = False
    """RMS norms without weights of value heads (Gemma 3n and 4)"""
    layer_scales: bool = False
    """whether a layer's output has a factor (Gemma 4)"""
    layer_inputs: LayerInputs | None = None
    altup: AltUpConfig | None = None
    gate_cuts: tuple[float | None, ...] = ()
    """Per layer: gates of its MLP are what lies above their mean by so many standard deviations, else 0 (Gemma 3n)."""
    layer_windows: tuple[int, ...] = ()
    """sliding window in tokens per layer, 0 for full attention; empty means full everywhere"""
    eos_token_ids: tuple[int, ...] = ()

    @property
    def query_columns(self) -> int:
        """Outputs of the matrix of queries."""
        return self.num_heads * (self.head_dim if self.latent is None else self.latent.query_dim)

    @property
    def result_columns(self) -> int:
        """Inputs of attention's output projection."""
        return self.num_heads * (self.head_dim if self.latent is None else self.latent.value_dim)

    @property
    def num_head_groups(self) -> int:
        """Groups of query heads that a shard has whole: those that read one KV head, or in latent attention, whose rows
        every shard keeps, each by itself."""
        return self.num_kv_heads if self.latent is None else self.num_heads

    @property
    def carried_width(self) -> int:
        """Values of a row that go from stage to stage: the residual streams, and the inputs of all layers."""
        streams = 1 if self.altup is None else self.altup.num_streams
        inputs = 0 if self.layer_inputs is None else self.num_layers * self.layer_inputs.width
        return streams * self.hidden_size + inputs

    @property
    def last_cut(self) -> int:
        """The last layer that a stage may begin with: layers stay with those whose keys they attend over."""
        shared = [source for layer, source in enumerate(self.kv_sources) if source != layer]
        return min(shared, default=self.num_layers - 1)

    def layer_heads(self, layer: int) -> HeadShape:
        """Key heads of a layer."""
        if self.full_heads is not None and not self.window(layer):
            return self.full_heads
        return HeadShape(num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)

    def columns(self, layer: int) -> int:
        """Of a layer's plain MLP."""
        return self.layer_columns[layer] if self.layer_columns else self.intermediate_size

    def kv_source(self, layer: int) -> int:
        """The layer whose keys and values a layer attends over."""
        return self.kv_sources[layer] if self.kv_sources else layer

    def has_values(self, layer: int) -> bool:
        """Whether a layer makes values by a matrix of their own."""
        return self.kv_source(layer) == layer and not (self.keys_as_values and not self.window(layer))

    def gate_cut(self, layer: int) -> float | None:
        """Standard deviations above the mean of a layer's gates below which they are 0; None: they stay."""
        return self.gate_cuts[layer] if self.gate_cuts else None

    def window(self, layer: int) -> int:
        """Sliding window of a layer in tokens, 0 for none."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def has_unit_norm(self, layer: int) -> bool:
        """Whether the rotated queries and keys of a layer have norms without weights."""
        return self.unit_qk_norm and layer not in self.no_rope_layers

    def layer_query_scaling(self, layer: int) -> QueryScaling | None:
        """How the queries of a layer grow with their position."""
        scaling = self.query_scaling
        if scaling is None or (scaling.only_unrotated and layer not in self.no_rope_layers):
            return None
        return scaling

    def layer_recurrence(self, layer: int) -> RecurrenceConfig | None:
        """What a layer has in the place of attention; None where it has attention."""
        return self.recurrence if self.recurrence is not None and layer in self.recurrence.layers else None

    def has_attention(self, layer: int) -> bool:
        """Whether a layer keeps keys and values."""
        return layer not in self.no_mixer_layers and self.layer_recurrence(layer) is None

    def has_mlp(self, layer: int) -> bool:
        """Whether a layer has an MLP, or experts in its place."""
        return layer not in self.no_mlp_layers

    def layer_experts(self, layer: int) -> ExpertsConfig | None:
        """The experts of a layer; None where it has a plain MLP."""
        if self.experts is None or layer in self.experts.dense_layers or not self.has_mlp(layer):
            return None
        return self.experts

    def active_columns(self, layer: int) -> float:
        """MLP columns of a layer that a token goes through."""
        experts = self.layer_experts(layer)
        if experts is not None:
            return experts.active_columns(layer)
        return self.columns(layer) if self.has_mlp(layer) else 0

    @property
    def share_columns(self) -> int:
        """Columns by which shards' parts of MLPs are counted: of experts where there are some, for they are most of the
        model. Other MLPs are cut at the same shares."""
        return self.experts.columns if self.experts is not None else self.intermediate_size

    def layer_rope(self, layer: int) -> RopeConfig:
        """The rotary embedding that a layer uses."""
        return self.local_rope if self.local_rope is not None and self.window(layer) else self.rope

"""The graphs of one stage: a decoder cut into segments wherever something other than ONNX Runtime has to work.

Attention runs in the native kernel, so segment i of whole layers contains what lies between attention i-1 and i:

    first:   x -> norm -> qkv                                          (into attention of the stage's first layer)
    middle:  x, attention -> o, residual, MLP, residual -> x', norm -> qkv'     (one for each further layer)
    last:    x, attention -> o, residual, MLP, residual -> x'                   (handed to the next stage)
    head:    x, attention -> the same, final norm, vocabulary -> logits         (in the last stage, sampled rows only)

A shard holds some heads, columns and vocabulary rows of each matrix. Its products with `o` and `down` are terms of sums
over all shards, and what follows (norm, residual) needs the complete sum, so there is a cut after each of them:

    qkv:     x, delta -> residual -> x', norm -> qkv                   (into attention; no delta in the first layer)
    o:       attention -> partial                                      (into a sum over the shards)
    mlp:     x, delta -> residual -> x', norm, MLP -> partial          (into a sum over the shards)
    last:    x, delta -> residual -> x'          or head:  x, delta -> residual, norm -> hidden, vocabulary -> logits

If attention and MLP are parallel, both read x, and a shard's o and mlp are one segment with one sum:

    both:    x, attention -> o + MLP of x's norm -> partial            (into a sum over the shards)

Shapes: x, delta, partial [T, hidden_size]; attention [T, num_heads * head_dim]; qkv [T, (num_heads + 2 num_kv_heads) *
head_dim]; logits [T, vocab_size]; with a shard's own counts of heads and vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.model.decoder.onnx.graph_builder import USUAL_FORM, GraphForm
from shoal.model.decoder.onnx.segment_builder import Marker, SegmentBuilder, SegmentGraph
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Precision, WeightSource


def build_segments(
    source: WeightSource, first_layer: int, last_layer: int, precision: Precision, *, form: GraphForm = USUAL_FORM
) -> Iterator[SegmentGraph]:
    """The segments of whole layers [first_layer, last_layer), in order: one more than there are layers.

    Weights are read as each segment is built, so no more than one segment's are in memory at a time.
    """
    for layer in range(first_layer, last_layer + 1):
        segment = SegmentBuilder(f"segment_{layer}", source, precision, form)
        x, delta = segment.input("x"), None
        if layer > first_layer and source.config.is_parallel:
            delta = segment.add_biases(segment.both_halves(x, layer - 1), layer - 1)
        elif layer > first_layer:
            x, norm = segment.add_attention(x, segment.output_projection(layer - 1), layer - 1)
            delta = segment.scale_mlp(segment.mlp(norm, layer - 1), layer - 1)
        if layer < last_layer:
            segment.begin_layer(x, delta, layer)
            yield segment.serialize(Marker.ATTENTION)
        else:
            yield segment.finish_stage(x, delta, last_layer)


def build_shard_segments(
    source: WeightSource, first_layer: int, last_layer: int, precision: Precision, *, form: GraphForm = USUAL_FORM
) -> Iterator[SegmentGraph]:
    """The segments of one shard's part of layers [first_layer, last_layer), in order: three a layer and one more.

    Args:
        source: the shard's own part of every matrix, such as a ShardSource.
        first_layer: of the stage.
        last_layer: exclusive.
        precision: of the matrices.
        form: of the graphs.
    """

    def new(name: str) -> SegmentBuilder:
        return SegmentBuilder(name, source, precision, form)

    if source.config.is_parallel:
        yield from _parallel_shard_segments(new, source.config, first_layer, last_layer)
        return
    has_heads = source.config.num_heads > 0
    for layer in range(first_layer, last_layer):
        segment = new(f"qkv_{layer}")
        delta = segment.scale_mlp(segment.input("delta"), layer - 1) if layer > first_layer else None
        if has_heads:
            segment.begin_layer(segment.input("x"), delta, layer)
            yield segment.serialize(Marker.ATTENTION)
            segment = new(f"o_{layer}")
            segment.output("partial", segment.output_projection(layer))
        else:
            segment.begin_layer_without_heads(segment.input("x"), delta)
        yield segment.serialize(Marker.SUM)
        segment = new(f"mlp_{layer}")
        x, norm = segment.add_attention(segment.input("x"), segment.input("delta"), layer)
        segment.output("x_out", x)
        segment.output("partial", segment.mlp(norm, layer))
        yield segment.serialize(Marker.SUM)
    segment = new("end")
    delta = segment.scale_mlp(segment.input("delta"), last_layer - 1)
    yield segment.finish_stage(segment.input("x"), delta, last_layer)


def _parallel_shard_segments(
    new: Callable[[str], SegmentBuilder], config: DecoderConfig, first_layer: int, last_layer: int
) -> Iterator[SegmentGraph]:
    has_heads = config.num_heads > 0
    for layer in range(first_layer, last_layer):
        segment = new(f"qkv_{layer}")
        x = segment.input("x")
        delta = segment.add_biases(segment.input("delta"), layer - 1) if layer > first_layer else None
        if has_heads:
            segment.begin_layer(x, delta, layer)
            yield segment.serialize(Marker.ATTENTION)
            segment = new(f"both_{layer}")
            x = segment.input("x")
        else:
            x = segment.add_delta(x, delta)
        segment.output("partial", segment.both_halves(x, layer))
        yield segment.serialize(Marker.SUM)
    segment = new("end")
    delta = segment.add_biases(segment.input("delta"), last_layer - 1)
    yield segment.finish_stage(segment.input("x"), delta, last_layer)

"""The MLP of a layer as ONNX nodes, and its experts.

Every expert computes every row, with weight 0 for rows that did not choose it, because ONNX Runtime has no grouped
product for processors. So this form is a reference that runs anywhere, but it is not fast.

Shapes: T rows, D hidden size, E experts, k of them chosen, G groups of them.
"""

from __future__ import annotations

import numpy as np

from shoal.arrays import F32
from shoal.model.decoder.onnx.graph_builder import GraphBuilder
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.weights import Precision, Weight, WeightSource, concatenate_rows


class MlpGraph:
    """Adds a layer's MLPs to a segment. Methods return the name of their result."""

    def __init__(self, builder: GraphBuilder, source: WeightSource, prefix: str, precision: Precision) -> None:
        """`prefix`: of the layer's names, such as `layers.3.`"""
        self._builder, self._source, self._prefix = builder, source, prefix
        self._precision: Precision = precision

    def add(self, x_TD: str, name: str, *, has_biases: bool) -> str:
        """down(activation(gate) * up), or down(activation(up)) without a gate, of the MLP whose names begin with
        `name`, without the bias of `down`."""
        builder, config = self._builder, self._source.config
        if not config.gated_mlp:
            bias = self._vector(f"{name}up_bias") if has_biases else None
            hidden = builder.activation(config.activation, builder.linear(x_TD, [self._matrix(f"{name}up")], bias))
            return builder.linear(hidden, [self._matrix(f"{name}down")])
        gate_up = [self._matrix(f"{name}gate"), self._matrix(f"{name}up")]
        joined = concatenate_rows(gate_up)
        biases = [self._vector(f"{name}{part}_bias") for part in ("gate", "up")] if has_biases else []
        bias = np.concatenate(biases) if biases else None
        hidden = builder.linear(x_TD, [joined] if joined is not None else gate_up, bias)
        gate, up = builder.split(hidden, [weight.shape[0] for weight in gate_up])
        return builder.linear(builder.gated(config.activation, gate, up), [self._matrix(f"{name}down")])

    def route(self, x_TD: str, experts: ExpertsConfig, layer: int) -> str:
        """The weighted sum over each row's experts that are held here, plus the shared MLP.

        Raises: ValueError if several shards hold the same experts, which only the native form supports.
        """
        if any(span.num_turns > 1 for span in experts.held_in(layer)):
            raise ValueError("copies of experts need the native extension")
        builder = self._builder
        weights = builder.split(self._weights(x_TD, experts), [1] * experts.num_experts)
        terms = [builder.node("Sub", [x_TD, x_TD])] if not experts.numbers_in(layer) else list[str]()
        for expert in experts.numbers_in(layer):
            name, weight = f"experts.{expert}.", weights[expert]
            if experts.scales_input:
                scaled_TD = builder.node("Mul", [x_TD, weight])
                terms.append(self.add(scaled_TD, name, has_biases=False))
                continue
            y_TD = self.add(x_TD, name, has_biases=experts.biases)
            if experts.biases:
                y_TD = builder.add(y_TD, self._vector(f"{name}down_bias"))
            terms.append(builder.node("Mul", [y_TD, weight]))
        if experts.shared_columns:
            terms.append(self._shared(x_TD, experts))
        return builder.node("Sum", terms)

    def _shared(self, x_TD: str, experts: ExpertsConfig) -> str:
        y_TD = self.add(x_TD, "shared_", has_biases=False)
        if not experts.shared_router:
            return y_TD
        weight = self._builder.node("Sigmoid", [self._builder.linear(x_TD, [self._matrix("shared_router")])])
        return self._builder.node("Mul", [y_TD, weight])

    def _weights(self, x_TD: str, experts: ExpertsConfig) -> str:
        """Weights of experts [T, E]; 0 for those that a row did not choose."""
        builder = self._builder
        bias = self._vector("router_bias") if experts.router_bias else None
        logits_TE = builder.linear(x_TD, [self._matrix("router")], bias)
        if experts.mixer_limit:
            return self._mixed_weights(logits_TE, experts)
        scores_TE = builder.node("Sigmoid" if experts.scoring == "sigmoid" else "Softmax", [logits_TE])
        ranks_TE = scores_TE
        if experts.selection_bias:
            ranks_TE = builder.add(ranks_TE, self._vector("selection_bias"))
        if experts.num_chosen_groups < experts.num_groups:
            ranks_TE = self._mask_groups(ranks_TE, experts)
        chosen_Tk = self._highest(ranks_TE, experts.num_chosen)[1]
        weights_Tk = builder.node("GatherElements", [scores_TE, chosen_Tk], axis=1)
        if experts.is_normalized:
            axes = builder.constant(np.array([1], np.int64))
            weights_Tk = builder.node("Div", [weights_Tk, builder.node("ReduceSum", [weights_Tk, axes], keepdims=1)])
        weights_Tk = builder.node("Mul", [weights_Tk, builder.constant(np.array(experts.scale, np.float32))])
        zeros_TE = builder.node("Sub", [scores_TE, scores_TE])
        return builder.node("ScatterElements", [zeros_TE, chosen_Tk, weights_Tk], axis=1)

    def _mixed_weights(self, logits_TE: str, experts: ExpertsConfig) -> str:
        """Weights [T, E] of experts that are chosen one after the other, see `ExpertsConfig.mixer_limit`."""
        builder = self._builder
        lowest, limit = (builder.constant(np.array(value, np.float32)) for value in (-1e30, experts.mixer_limit))
        weights_TE, left_TE = builder.node("Sub", [logits_TE, logits_TE]), logits_TE
        for _ in range(experts.num_chosen):
            best_T1, chosen_T1 = self._highest(left_TE, 1)
            size_TE = builder.node("Max", [builder.node("Abs", [logits_TE]), best_T1])
            distance_TE = builder.node("Div", [builder.node("Sub", [best_T1, logits_TE]), size_TE])
            is_far_TE = builder.node("Greater", [distance_TE, limit])
            softmax_TE = builder.node("Softmax", [builder.node("Where", [is_far_TE, lowest, left_TE])])
            weight_T1 = builder.node("GatherElements", [softmax_TE, chosen_T1], axis=1)
            weight_T1 = builder.scale(weight_T1, experts.scale)
            weights_TE = builder.node("ScatterElements", [weights_TE, chosen_T1, weight_T1], axis=1)
            lowest_T1 = builder.node("Add", [builder.node("Sub", [best_T1, best_T1]), lowest])
            left_TE = builder.node("ScatterElements", [left_TE, chosen_T1, lowest_T1], axis=1)
        return weights_TE

    def _mask_groups(self, ranks_TE: str, experts: ExpertsConfig) -> str:
        """Ranks, lower than all others in groups that a row did not choose."""
        builder, size = self._builder, experts.num_experts // experts.num_groups
        shape = builder.constant(np.array([0, experts.num_groups, size], np.int64))
        grouped_TGe = builder.node("Reshape", [ranks_TE, shape])
        best_TGn = self._highest(grouped_TGe, experts.num_group_scores)[0]
        axes = builder.constant(np.array([2], np.int64))
        groups_TG = builder.node("ReduceSum", [best_TGn, axes], keepdims=0)
        chosen_Tg = self._highest(groups_TG, experts.num_chosen_groups)[1]
        lowest_TG = builder.add(builder.node("Sub", [groups_TG, groups_TG]), np.array([-1e30], np.float32))
        zeros_Tg = builder.node("GatherElements", [builder.node("Sub", [groups_TG, groups_TG]), chosen_Tg], axis=1)
        mask_TG = builder.node("ScatterElements", [lowest_TG, chosen_Tg, zeros_Tg], axis=1)
        masked_TGe = builder.node("Add", [grouped_TGe, builder.node("Unsqueeze", [mask_TG, axes])])
        whole = builder.constant(np.array([0, experts.num_experts], np.int64))
        return builder.node("Reshape", [masked_TGe, whole])

    def _highest(self, x: str, count: int) -> tuple[str, str]:
        """The highest values of the last dim, and their indices."""
        names = [f"top_{self._builder.num_nodes}_values", f"top_{self._builder.num_nodes}_places"]
        self._builder.node("TopK", [x, self._builder.constant(np.array([count], np.int64))], outputs=names, axis=-1)
        return names[0], names[1]

    def _matrix(self, name: str) -> Weight:
        return self._source.matrix(self._prefix + name, self._precision)

    def _vector(self, name: str) -> F32:
        return self._source.vector(self._prefix + name)

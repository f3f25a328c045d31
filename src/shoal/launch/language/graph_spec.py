"""The split of a language model that is an ONNX graph, which can only be copied."""

from __future__ import annotations

from shoal.config import LaunchConfig
from shoal.errors import ConfigError
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.split.split_spec import SplitSpec


def graph_spec(config: LaunchConfig, spec: SplitSpec | None, precision: Precision) -> SplitSpec:
    """The split to plan.

    Args:
        config: the user's other options.
        spec: the given split; None: `auto`, which is one copy on all cores, or a stored plan.
        precision: the precision that the user asked for.

    Raises:
        ConfigError: an option is not supported for a graph.
    """
    if spec is not None and (spec.num_stages > 1 or spec.num_shards > 1):
        raise ConfigError(f"--split {spec}: a language model as an ONNX graph is not cut; use dp=2 for two copies")
    if precision != "auto" or config.planning.precision_floor is not None:
        raise ConfigError("--precision: a language model as an ONNX graph keeps the precision of its file")
    if config.exact_activations:
        raise ConfigError("--activations: a language model as an ONNX graph always computes as its file says")
    if config.adapters or config.merged_adapter is not None:
        raise ConfigError("--lora: a language model as an ONNX graph has no adapters")
    if config.planning.cluster is not None:
        raise ConfigError("--cluster: a language model as an ONNX graph runs on this machine only")
    return spec or SplitSpec()


def check_plannable(model: ModelOnDisk) -> None:
    """Check that a model can be measured and planned. Raises ConfigError."""
    if model.is_graph:
        raise ConfigError(
            f"{model.name}: a language model as an ONNX graph cannot be planned; give --split dp=N yourself"
        )

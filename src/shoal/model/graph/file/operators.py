"""Whether ONNX Runtime knows every operator of a model, checked before anything large is built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

import onnx
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state
from onnx.helper import make_tensor_value_info

from shoal.errors import ModelLoadError
from shoal.model.graph.file.dataflow import nested_nodes
from shoal.model.runtime_sessions import session_options, start_session

MIN_OPSET = 7
"""Oldest operator set that ONNX Runtime promises to run. Source: its compatibility page, "ONNX opset support"."""

DEFAULT_DOMAIN = "ai.onnx"


def check_operators(model: onnx.ModelProto) -> None:
    """Check that operator sets and all operators are known, including those in bodies and functions.

    Raises:
        ModelLoadError: names the operator and its domain, or the operator set.
    """
    versions = {_domain(opset.domain): opset.version for opset in model.opset_import}
    if not versions:
        raise ModelLoadError("the model declares no operator set: it is truncated or damaged; copy or export it again")
    if versions.get(DEFAULT_DOMAIN, MIN_OPSET) < MIN_OPSET:
        raise ModelLoadError(
            f"the model uses ONNX operator set {versions[DEFAULT_DOMAIN]}; {MIN_OPSET} is the oldest that can run: "
            "convert it with onnx.version_converter"
        )
    _check_versions(model)
    known = _runtime_operators()
    functions = {(_domain(function.domain), function.name) for function in model.functions}
    _check_nodes(model.graph.node, versions, known, functions)
    for function in model.functions:
        own = {_domain(opset.domain): opset.version for opset in function.opset_import}
        _check_nodes(function.node, versions | own, known, functions)


def _check_versions(model: onnx.ModelProto) -> None:
    """Try ONNX Runtime with an empty graph of the same versions, since it publishes no list of supported ones."""
    empty = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    value = make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    empty.graph.MergeFrom(onnx.GraphProto(name="empty", input=[value], output=[value]))
    try:
        start_session(empty.SerializeToString(), session_options(1))
    except Exception:  # ONNX Runtime raises a class of its own per status code
        opsets = ", ".join(f"{_domain(opset.domain)} {opset.version}" for opset in model.opset_import)
        raise ModelLoadError(
            f"the model's versions (file format {model.ir_version}; operator sets {opsets}) are newer than "
            f"ONNX Runtime {ort.__version__} can run: export it with an older operator set"
        ) from None


def _check_nodes(
    nodes: Iterable[onnx.NodeProto],
    versions: Mapping[str, int],
    known: Mapping[tuple[str, str], int],
    functions: set[tuple[str, str]],
) -> None:
    for node in nested_nodes(nodes):
        key = domain, operator = _domain(node.domain), node.op_type
        if key in functions:
            continue
        where = f'operator "{operator}" of domain "{domain}" (node {node.name or "(unnamed)"!r})'
        if key not in known:
            raise ModelLoadError(f"unknown {where}: ONNX Runtime has none of that name, so this model cannot run here")
        if domain in versions and versions[domain] < known[key]:
            raise ModelLoadError(
                f"{where} exists since operator set {known[key]}, but the model declares {versions[domain]}: "
                "export it with a newer operator set"
            )


@cache
def _runtime_operators() -> Mapping[tuple[str, str], int]:
    """The first version of every operator that ONNX Runtime has, by domain and name."""
    versions: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for schema in ort_state.get_all_operator_schema():
        versions[_domain(schema.domain), schema.name].append(schema.since_version)
    return {key: min(found) for key, found in versions.items()}


def _domain(domain: str) -> str:
    return domain or DEFAULT_DOMAIN

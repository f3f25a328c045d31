"""How much of a graph's stage fits a device that cannot hold all of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from shoal.errors import CapacityError
from shoal.model.device.failures import most_that_fits
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import cut_points, stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_interface import StageInterface


def check_room(graph: GraphFile, first_node: int, last_node: int, device: DeviceConfig) -> None:
    """Compare a stage's weights with the device memory that the worker may use, if that is bounded.

    Raises:
        CapacityError: says what is needed, what may be used, and how many of the nodes would fit.
    """
    allowed = device.memory_bytes
    if allowed is None or (needed := weight_bytes(graph, first_node, last_node)) <= allowed:
        return
    most = most_that_fits(
        last_node - first_node, lambda num: weight_bytes(graph, first_node, first_node + num) <= allowed
    )
    raise CapacityError(
        f"{device.name} may take {allowed:,} bytes, but the weights of nodes {first_node} to {last_node - 1} are "
        f"{needed:,} bytes; {_way_out(most, last_node - first_node)}"
    )


def describe_room(
    graph: GraphFile,
    first_node: int,
    last_node: int,
    device: DeviceConfig,
    load: Callable[[StageInterface], object],
) -> str:
    """What to tell the user after a device turned out too small for a stage: how large a stage it can load.

    Args:
        graph: the file.
        first_node: of the stage.
        last_node: of the stage, exclusive.
        device: that was too small.
        load: tries a smaller stage; raises CapacityError if that does not fit either.
    """
    ends = [cut.node for cut in cut_points(graph) if first_node < cut.node < last_node]

    def fits(num_cuts: int) -> bool:
        (*before, _) = stage_interfaces(graph, [*([first_node] if first_node else []), ends[num_cuts - 1]])
        with suppress(CapacityError):
            load(before[-1])
            return True
        return False

    found = most_that_fits(len(ends) + 1, fits)
    most = ends[found - 1] - first_node if found else 0
    needed = weight_bytes(graph, first_node, last_node)
    return (
        f"{device.name} has too little memory for nodes {first_node} to {last_node - 1}, whose weights are {needed:,} "
        f"bytes; {_way_out(most, last_node - first_node)}"
    )


def _way_out(most: int, total: int) -> str:
    if not most:
        return "not even the first part of them fits; take another device"
    return f"the first {most} of these {total} nodes fit: --split pp=... with the rest on another device"

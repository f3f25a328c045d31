"""Measure the speed of a graph on this machine, and keep the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from shoal.core.collectives import MAX_RANKS
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.json_cache import ProfileCache, profile_folder
from shoal.measure.devices.setting import device_setting
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.cuts import cut_places, head_bytes
from shoal.measure.graph.measurer import GraphMeasurer, PlacedTimes, ShardTimes
from shoal.measure.machine import this_machine
from shoal.measure.measuring import Measuring
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.identity import graph_digest
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed, ShardSpeed
from shoal.router.graph_executor import Tensors

KeptT = TypeVar("KeptT")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSetting:
    """The graph, inputs and cores of a measurement."""

    graph: GraphFile
    model: str
    """The model's name as given by the user."""
    sample: Tensors
    """Inputs of a micro-batch."""
    rows: int
    """Number of rows of the sample."""
    cores: tuple[int, ...]
    """CPU ids to use."""
    is_in_process: bool
    """Whether a plan of one worker computes in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWorkerTimes:
    """The times of one worker with the whole graph."""

    node_s: tuple[float, ...]
    """Seconds of each node; their sum is the measured time of the graph."""
    nodes: NodeTimes
    message_s: float
    """Seconds of a round trip between the head and the worker."""


def measure_graph(setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring) -> GraphSpeeds:
    """Measure a graph on this machine, from one worker with many threads to many workers with few.

    Args:
        setting: what to measure, and on which cores.
        measurer: measures that graph on that sample; used only for unknown results.
        measuring: how to measure.

    Raises:
        ConfigError: more threads than cores, or the graph does not run on the sample.
        ModelLoadError: a worker cannot load it.
        WorkerLost: a worker died or does not answer.
    """
    graph = setting.graph
    kept = _Kept(setting, measurer, measuring)
    layouts = tuple(kept.layout(num_workers, threads) for num_workers, threads in worker_counts(setting, measuring))
    several = [one for one in layouts if one.num_workers > 1]
    nodes = {one.threads: kept.nodes(one.threads) for one in several}
    seen = next(iter(nodes.values()), None)
    return GraphSpeeds(
        model=setting.model,
        rows=setting.rows,
        num_cores=len(setting.cores),
        num_nodes=graph.num_nodes,
        available_bytes=free_memory_bytes(),
        weight_bytes=partial(weight_bytes, graph),
        node_s={threads: times.seconds for threads, times in nodes.items()},
        places=cut_places(graph, seen),
        layouts=layouts,
        shards={one.num_workers: _shard_speed(kept, one) for one in several},
        head_bytes=head_bytes(graph, setting.sample, seen),
    )


def measure_worker(setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring) -> GraphWorkerTimes:
    """Measure one worker on all cores of a setting, and its nodes. Arguments and errors as of `measure_graph`."""
    kept, threads = _Kept(setting, measurer, measuring), len(setting.cores)
    layout, nodes = kept.layout(1, threads), kept.nodes(threads)
    scale = layout.lone_compute_s / (sum(nodes.seconds) or 1.0)
    return GraphWorkerTimes(
        node_s=tuple(scale * seconds for seconds in nodes.seconds), nodes=nodes, message_s=layout.message_s
    )


def measure_node_times(setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring) -> NodeTimes:
    """Measure every node of the graph in this process. Arguments and errors as of `measure_graph`."""
    return _Kept(setting, measurer, measuring).nodes(len(setting.cores))


def measure_places(
    setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring, places: Sequence[WorkerPlacement]
) -> PlacedTimes:
    """Measure workers in different places, with the whole graph each, while all compute.

    Args:
        setting: what to measure.
        measurer: measures that graph on that sample.
        measuring: how to measure.
        places: the places of the workers.

    Raises:
        ConfigError, CapacityError, ModelLoadError, WorkerLost: as for `measure_graph`, or a device is missing or too
            small for the graph.
    """
    return _Kept(setting, measurer, measuring).places(places)


def measure_whole(setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring) -> LayoutSpeed:
    """Measure one worker on all cores of a setting. Arguments and errors as of `measure_graph`."""
    return _Kept(setting, measurer, measuring).layout(1, measuring.threads or len(setting.cores))


def worker_counts(setting: GraphSetting, measuring: Measuring) -> Iterator[tuple[int, int]]:
    """Pairs of workers and threads per worker: 1, 2, 4, ... workers, and the most possible. Raises ConfigError."""
    num_cores = len(setting.cores)
    if measuring.threads is not None and not 1 <= measuring.threads <= num_cores:
        raise ConfigError(f"--threads is {measuring.threads}, but there are {num_cores} cores")
    most = num_cores // (measuring.threads or 1)
    for count in [1 << power for power in range(most.bit_length()) if 1 << power < most] + [most]:
        yield count, measuring.threads or num_cores // count


class _Kept:
    """Measurements of one setting, each of which is made once per machine and then cached on disk."""

    def __init__(self, setting: GraphSetting, measurer: GraphMeasurer, measuring: Measuring) -> None:
        self._setting = setting
        self._measurer = measurer
        self._measuring = measuring
        self._common = {
            "machine": asdict(this_machine()),
            "cores": list(setting.cores),
            "graph": graph_digest(setting.graph),
            "sample": {name: [str(array.dtype), list(array.shape)] for name, array in setting.sample.items()},
        }

    def layout(self, num_workers: int, threads: int) -> LayoutSpeed:
        """See `GraphMeasurer.layout`."""
        key = {
            "what": "graph layout",
            "workers": num_workers,
            "threads": threads,
            "in_process": num_workers == 1 and self._setting.is_in_process,
        }
        told = f"{_count(num_workers, 'worker')} with {_count(threads, 'thread')}"
        return self._get(LayoutSpeed, key, told, lambda: self._measurer.layout(num_workers, threads))

    def places(self, places: Sequence[WorkerPlacement]) -> PlacedTimes:
        """See `GraphMeasurer.places`."""
        settings = [device_setting(place.device, place.python) for place in places if place.device is not None]
        key = {"what": "graph places", "places": [asdict(place) for place in places], "devices": settings}
        told = " beside ".join(place.device.name if place.device else "the processor" for place in places)
        return self._get(PlacedTimes, key, told, lambda: self._measurer.places(places))

    def shards(self, num_shards: int, threads: int) -> ShardTimes:
        """See `GraphMeasurer.shards`."""
        key = {"what": "graph shards", "shards": num_shards, "threads": threads}
        return self._get(
            ShardTimes, key, _count(num_shards, "shard"), lambda: self._measurer.shards(num_shards, threads)
        )

    def nodes(self, threads: int) -> NodeTimes:
        """See `GraphMeasurer.nodes`."""
        key = {"what": "graph nodes", "threads": threads}
        return self._get(NodeTimes, key, "every node", lambda: self._measurer.nodes(threads))

    def _get(self, kind: type[KeptT], key: Mapping[str, object], told: str, measure: Callable[[], KeptT]) -> KeptT:
        def tell_and_measure() -> KeptT:
            self._measuring.on_progress(told)
            return measure()

        cache = ProfileCache(profile_folder(), kind)
        return cache.get_or_measure({**key, **self._common}, tell_and_measure, refresh=self._measuring.refresh)


def _shard_speed(kept: _Kept, layout: LayoutSpeed) -> ShardSpeed | str:
    """The speed of as many shards as a layout has workers; a text that says why if there is none."""
    if layout.num_workers > MAX_RANKS:
        return f"there can be at most {MAX_RANKS} shards"
    times = kept.shards(layout.num_workers, layout.threads)
    if times.compute_s is None:
        return "nothing of this graph can be split over shards"
    return ShardSpeed(relative=times.compute_s / layout.compute_s, weight_share=times.weight_share)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

"""Workers on several machines, linked by TLS connections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from shoal.comm.links.tensor_port import FramePort
from shoal.comm.tls.tls_identity import ClusterAuthority
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.executor.launcher import Edge, Place, edges
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.remote.host import WorkerHost
from shoal.executor.remote.worker import RemoteWorker
from shoal.protocol.codec import encode
from shoal.protocol.worker_messages import Generation, Neighbor, Wire
from shoal.worker.remote_links import format_where


class RemoteLauncher:
    """Implements `executor.launcher.WorkerLauncher`. Makes its own certificates, which are valid only for its
    workers."""

    def __init__(
        self,
        hosts: Mapping[str, WorkerHost],
        elsewhere: Callable[[str], WorkerPlacement | None] = lambda machine: None,
    ) -> None:
        """
        Args:
            hosts: the hosts, by the machine names that plans use.
            elsewhere: see `WorkerLauncher.elsewhere`.

        Raises:
            ConfigError: certificates cannot be made.
        """
        self._hosts, self._elsewhere = hosts, elsewhere
        self._authority = ClusterAuthority()
        self._credentials = self._authority.issue()

    def start(self, place: Place) -> RemoteWorker:
        """See `WorkerLauncher.start`."""
        host = self._hosts.get(place.machine or "")
        if host is None:
            raise ConfigError(f"machine {place.machine} is not in the cluster (there: {', '.join(self._hosts)})")
        return RemoteWorker(
            place.label,
            host,
            place.load,
            admit=self._authority.admit,
            heads=self._credentials,
            python=place.python,
        )

    def wire(
        self, places: Sequence[Sequence[Place]], workers: Sequence[Sequence[MessageWorker]], generation: Generation
    ) -> SelfCutting:
        """See `WorkerLauncher.wire`."""
        stages = [[cast(RemoteWorker, worker) for worker in shards] for shards in workers]
        sources: defaultdict[tuple[int, int], list[Neighbor]] = defaultdict(list)
        consumers: defaultdict[tuple[int, int], list[Neighbor]] = defaultdict(list)
        for edge in edges(places):
            (source, source_rank), (consumer, consumer_rank) = edge.source, edge.consumer
            giver, taker = stages[source][source_rank], stages[consumer][consumer_rank]
            key = _link_key(generation, edge)
            consumers[edge.source].append(
                Neighbor(stage=consumer, where=format_where(taker.address, key), name=taker.name)
            )
            sources[edge.consumer].append(Neighbor(stage=source, where=format_where(None, key), name=giver.name))
        for stage, shards in enumerate(stages):
            group = tuple(
                Neighbor(stage=stage, where=format_where(member.address, f"stage-{stage}"), name=member.name)
                for member in shards
            )
            for rank, worker in enumerate(shards):
                seat = stage, rank
                wire = Wire(
                    generation=generation,
                    sources=tuple(sources[seat]),
                    consumers=tuple(consumers[seat]),
                    group=group if len(group) > 1 else (),
                )
                worker.send(encode(wire))
        return SelfCutting()

    def elsewhere(self, machine: str) -> WorkerPlacement | None:
        """See `WorkerLauncher.elsewhere`."""
        return self._elsewhere(machine)


class SelfCutting:
    """Implements `executor.launcher.Wiring`. A worker that loses one connection closes the others, so nothing is to
    cut."""

    def __init__(self) -> None:
        self._port = FramePort()

    def port(self, index: int) -> FramePort:
        """See `Wiring.port`. One port serves all workers, as no memory is shared."""
        return self._port

    def cut(self) -> None:
        """Does nothing: no worker waits forever for a lost one."""


def _link_key(generation: Generation, edge: Edge) -> str:
    """The name with which a shard introduces itself to a shard that it feeds."""
    (source, _), (stage, rank) = edge.source, edge.consumer
    return f"{generation}/stage-{source}/to/stage-{stage}/shard-{rank}"

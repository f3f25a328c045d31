"""Workers on several machines, wired by TLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from shoal.comm.tls.tls_identity import ClusterAuthority
from shoal.errors import ConfigError
from shoal.executor.fabric import Place
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.remote.host import WorkerHost
from shoal.executor.remote.worker import RemoteWorker
from shoal.protocol.codec import encode
from shoal.protocol.messages import Generation, Wire
from shoal.worker.remote_links import make_name


class RemoteFabric:
    """Implements `executor.fabric.Fabric`. Its certificates are made here and are worth nothing elsewhere."""

    def __init__(self, hosts: Mapping[str, WorkerHost]) -> None:
        """`hosts`: by the names of machines in plans. Raises ConfigError where certificates cannot be made."""
        self._hosts = hosts
        self._authority = ClusterAuthority()
        self._credentials = self._authority.issue()

    def start(self, place: Place) -> RemoteWorker:
        """See `Fabric.start`."""
        host = self._hosts.get(place.machine or "")
        if host is None:
            raise ConfigError(f"machine {place.machine} is not in the cluster (there: {', '.join(self._hosts)})")
        return RemoteWorker(place.label, host, place.load, admit=self._authority.admit, heads=self._credentials)

    def wire(self, workers: Sequence[Sequence[MessageWorker]], generation: Generation) -> SelfCutting:
        """See `Fabric.wire`. A shard takes from the shard of its own rank, counted round."""
        stages = [[cast(RemoteWorker, worker) for worker in shards] for shards in workers]
        for index, shards in enumerate(stages):
            following = stages[index + 1] if index + 1 < len(stages) else []
            preceding = stages[index - 1] if index else []
            for rank, worker in enumerate(shards):
                takers = range(rank, len(following), len(shards))
                wire = Wire(
                    generation=generation,
                    upstream=make_name(None, _link_key(generation, index, rank)) if index else None,
                    downstream=tuple(
                        make_name(following[taker].address, _link_key(generation, index + 1, taker)) for taker in takers
                    ),
                    group=tuple(make_name(member.address, f"stage-{index}") for member in shards)
                    if len(shards) > 1
                    else (),
                    upstream_name=preceding[rank % len(preceding)].name if preceding else "",
                    downstream_names=tuple(following[taker].name for taker in takers),
                    group_names=tuple(member.name for member in shards),
                )
                worker.send(encode(wire))
        return SelfCutting()


class SelfCutting:
    """Implements `executor.fabric.Wiring`: a connection ends with either end, and who loses one leaves the others."""

    def cut(self) -> None:
        """Nothing waits for ever that the head would have to free."""


def _link_key(generation: Generation, stage: int, rank: int) -> str:
    """As whom the shard that feeds this one comes to it."""
    return f"{generation}/stage-{stage}/shard-{rank}"

"""A worker whose times can be added up by hand: everything in whole milliseconds."""

from __future__ import annotations

from shoal.planner.predict.placement import PlacedReplica, PlacedShard, PredictedStage
from shoal.planner.speeds.speeds import BlockSpeed, Curve, Fleet, LinkSpeed, WorkerClass, WorkerSpeed

MS = 1e-3
NOTHING = Curve(rows=(1,), seconds=(0.0,))
FREE = LinkSpeed(latency_s=0.0, bytes_per_s=1e15)


def line(start_ms: float, row_ms: float) -> Curve:
    """start_ms + row_ms * rows, from one row on."""
    return Curve(rows=(1, 1001), seconds=((start_ms + row_ms) * MS, (start_ms + 1001 * row_ms) * MS))


def example_worker(slowness: float = 1.0) -> WorkerSpeed:
    """Layers of 1 + 1 ms for an output row (attention 1, MLP 1), 0.1 + 0.3 for a prompt row; head 2 ms a row."""

    def ms(start_ms: float, row_ms: float) -> Curve:
        return line(start_ms * slowness, row_ms * slowness)

    return WorkerSpeed(
        attention=BlockSpeed(decode=ms(0, 1), prefill=ms(0, 0.1)),
        mlp=BlockSpeed(decode=ms(0, 1), prefill=ms(0, 0.3)),
        head=BlockSpeed(decode=ms(0, 2), prefill=NOTHING),
        decode_context=ms(0, 0),
        prefill_context_s=0.0,
        step_s=0.0,
    )


def example_fleet(
    *, alone: WorkerSpeed | None = None, busy: WorkerSpeed | None = None, link: LinkSpeed = FREE, sums: LinkSpeed = FREE
) -> Fleet:
    """Many workers of one class."""
    busy = busy or example_worker()
    kind = WorkerClass(
        name="1 thread",
        count=8,
        threads=1,
        memory_bytes=1 << 30,
        alone={"fp32": alone or busy},
        busy={"fp32": busy},
    )
    return Fleet(classes=(kind,), links=((link,),), sums=((sums,),))


def whole_stages(*layers: int) -> PlacedReplica:
    """A pipeline of unsharded stages."""
    shard = PlacedShard(worker_class=0, memory_bytes=1000)
    return PlacedReplica(
        stages=tuple(PredictedStage(num_layers=count, precision="fp32", shards=(shard,)) for count in layers)
    )

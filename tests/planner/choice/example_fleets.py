"""Small models and fleets whose best plans can be seen by eye."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.choice.costs.model_sizes import ModelSizes, PrecisionSizes
from shoal.planner.speeds.speeds import BlockSpeed, Curve, Fleet, LinkSpeed, WorkerClass, WorkerSpeed

MB = 1 << 20
ATOMS = ShardAtoms(
    num_kv_heads=4, kv_heads_per_atom=1, intermediate_size=256, column_atom=32, vocab_size=512, vocab_atom=32
)
FAST_LINK = LinkSpeed(latency_s=1e-6, bytes_per_s=1e10)
SLOW_LINK = LinkSpeed(latency_s=5e-3, bytes_per_s=1e7)


def make_model(num_layers: int = 8, *, precisions: tuple[str, ...] = ("int8",), layer_mb: int = 10) -> ModelSizes:
    """Layers of 10 MB, 40 % of it attention; lower precisions are half as large."""
    return ModelSizes(
        name="model",
        hidden_bytes=256,
        kv_bytes_per_token=1024,
        atoms=ATOMS,
        by_precision={
            precision: PrecisionSizes(
                attention_bytes=(int(0.4 * layer_mb * MB / 2**index),) * num_layers,
                mlp_bytes=(int(0.6 * layer_mb * MB / 2**index),) * num_layers,
                embedding_bytes=2 * MB,
                head_bytes=2 * MB,
            )
            for index, precision in enumerate(precisions)
        },
        max_context=512,
    )


def make_speed(slowness: float = 1.0) -> WorkerSpeed:
    """A layer takes 1 ms for a row and 0.1 ms for each further one; a prompt row a tenth of a millisecond."""

    def block(part: float) -> BlockSpeed:
        unit = 1e-3 * slowness * part
        return BlockSpeed(
            decode=Curve(rows=(1, 11), seconds=(unit, 2 * unit)),
            prefill=Curve(rows=(1, 11), seconds=(unit, 2 * unit)),
            fixed_s=1e-6,
        )

    return WorkerSpeed(
        attention=block(0.4),
        mlp=block(0.6),
        head=block(1.0),
        decode_context=Curve(rows=(1,), seconds=(0.0,)),
        prefill_context_s=0.0,
        step_s=1e-6,
    )


def make_class(
    name: str, *, count: int = 1, slowness: Mapping[str, float] | float = 1.0, memory_mb: int = 1000
) -> WorkerClass:
    """`slowness`: at int8, or by precision."""
    by_precision = {"int8": slowness} if isinstance(slowness, float) else slowness
    speeds = {precision: make_speed(slow) for precision, slow in by_precision.items()}
    return WorkerClass(name=name, count=count, threads=2, memory_bytes=memory_mb * MB, alone=speeds, busy=speeds)


def make_fleet(*classes: WorkerClass, link: LinkSpeed = FAST_LINK, sums: LinkSpeed = FAST_LINK) -> Fleet:
    """All links alike."""
    count = len(classes)
    return Fleet(classes=classes, links=((link,) * count,) * count, sums=((sums,) * count,) * count)

"""From what the user asked for to a running engine: resolve, plan, start, load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import psutil

from shoal.cluster.in_process import InProcessExecutor
from shoal.cluster.local import LocalExecutor
from shoal.config import LaunchConfig
from shoal.core.plan import Block, Plan, ReplicaPlan, ShardPart
from shoal.core.scheduler_config import SchedulerConfig
from shoal.errors import ConfigError
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.decoder.decoder_graph import count_segments
from shoal.model.decoder.stage import Stage, StageConfig
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.model_path import resolve_model
from shoal.model.formats.open_weights import open_weights
from shoal.model.shard_source import ShardSource, shard_atoms, whole_part
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.model.weights import Precision, WeightSource
from shoal.planner.manual import plan_from_spec
from shoal.planner.memory import check_memory
from shoal.planner.shares import shard_parts
from shoal.planner.split_spec import SplitSpec, parse_split
from shoal.protocol.messages import PROTOCOL_VERSION, Generation, LoadStage
from shoal.router.engine import Engine
from shoal.router.executor import Executor

_BLOCK_SIZE = 16
"""Tokens in a KV block. Source: arXiv 2309.06180, section 7.2: 16 loses little to fragmentation at any length."""
_KV_SHARE_OF_FREE_MEMORY = 0.5
_WIDE_KERNELS_SHARE_OF_FREE_MEMORY = 0.5
"""Weights are packed a second time for wide batches only where both copies leave half of the memory free."""

_SMALLEST_CHUNK_TOKENS = 64
"""Prefill chunks are divided by the number of stages, down to this: while a pipeline fills and drains, each stage idles
for one chunk; below it a chunk is too narrow to be computed well. Source: docs/log.md, prefill chunks."""

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is ready to take requests. Close it."""

    path: Path
    plan: Plan
    decoder: DecoderConfig
    tokenizer: Tokenizer
    engine: Engine

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model that is resolved and planned, with nothing started yet."""

    path: Path
    plan: Plan
    source: WeightSource


def plan_model(config: LaunchConfig) -> PlannedModel:
    """Resolve the model and decide its split, from its headers alone.

    Raises:
        ConfigError: the split, precision or limits make no sense for this model.
        ModelLoadError: the file is missing, broken or of an unknown kind.
        CapacityError: it needs more memory than there is.
    """
    spec = parse_split(config.split)
    precision = parse_precision(config.precision)
    path = resolve_model(config.model)
    source = open_weights(path)
    available_bytes = psutil.virtual_memory().available
    blocks = _choose_blocks(source, precision, spec, available_bytes)
    weight_bytes = spec.num_replicas * blocks.weight_bytes
    kv_memory_bytes = config.kv_memory_bytes
    if kv_memory_bytes is None:
        kv_memory_bytes = int(max(0, available_bytes - weight_bytes) * _KV_SHARE_OF_FREE_MEMORY)
    plan = plan_from_spec(
        model=config.model,
        shard_blocks=blocks.shards,
        parts=blocks.parts,
        spec=spec,
        precision=precision,
        threads=config.threads,
        cores=sorted(os.sched_getaffinity(0)),
        kv_memory_bytes=kv_memory_bytes,
        block_size=_BLOCK_SIZE,
        max_context=min(config.max_context or source.config.max_context, source.config.max_context),
        max_seqs=config.max_seqs,
        max_step_tokens=config.max_step_tokens,
    )
    plan = replace(plan, wide_kernels=blocks.wide_kernels, exact_activations=config.exact_activations)
    whole = decoder_blocks(source, precision, wide_kernels=blocks.wide_kernels)
    check_memory(plan, blocks=whole, available_bytes=available_bytes)
    return PlannedModel(path=path, plan=plan, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """The model's blocks, cut into shards."""

    parts: tuple[ShardPart, ...]
    shards: tuple[list[Block], ...]
    """blocks of each shard: embedding, layers, head"""
    wide_kernels: bool

    @property
    def weight_bytes(self) -> int:
        """Of one replica."""
        return sum(block.weight_bytes for blocks in self.shards for block in blocks)


def _choose_blocks(source: WeightSource, precision: Precision, spec: SplitSpec, available_bytes: int) -> _Blocks:
    """With a second packing of 4-bit weights where memory allows it."""
    parts = (whole_part(source.config),)
    if spec.num_shards > 1:
        parts = shard_parts(shard_atoms(source.config), spec.shares)
    sources = [ShardSource(source, part) for part in parts] if spec.num_shards > 1 else [source]

    def cut(wide_kernels: bool) -> _Blocks:
        shards = tuple(decoder_blocks(one, precision, wide_kernels=wide_kernels) for one in sources)
        return _Blocks(parts=parts, shards=shards, wide_kernels=wide_kernels)

    blocks = cut(wide_kernels=True)
    if spec.num_replicas * blocks.weight_bytes > _WIDE_KERNELS_SHARE_OF_FREE_MEMORY * available_bytes:
        return cut(wide_kernels=False)
    return blocks


def launch(planned: PlannedModel, on_progress: ProgressCallback | None = None) -> LoadedModel:
    """Start the workers of a plan and load their stages; `on_progress(done, total)` counts segments of all workers.

    Raises:
        ModelLoadError: a weight is missing, broken or of an unknown kind.
        WorkerLost: a worker died while loading.
    """
    plan, source = planned.plan, planned.source
    progress = _Progress(plan, on_progress or (lambda done, total: None))
    with ExitStack() as on_failure:
        executors = [
            _start_replica(planned, replica, f"replica {index}", on_failure, progress)
            for index, replica in enumerate(plan.replicas)
        ]
        tokenizer = load_tokenizer(planned.path, cache_root=_cache_root() / "tokenizers")
        for executor in executors:
            if isinstance(executor, LocalExecutor):
                executor.wait_until_loaded(progress.advance)
        pairs = zip(plan.replicas, executors, strict=True)
        engine = Engine([(_scheduler_config(plan, replica), executor) for replica, executor in pairs], time.monotonic)
        on_failure.pop_all()
    return LoadedModel(path=planned.path, plan=plan, decoder=source.config, tokenizer=tokenizer, engine=engine)


class _Progress:
    """Segments loaded so far, over all workers."""

    def __init__(self, plan: Plan, callback: ProgressCallback) -> None:
        self._callback = callback
        self._done = 0
        self._total = sum(
            len(stage.shards) * count_segments(stage.num_layers, is_shard=len(stage.shards) > 1)
            for replica in plan.replicas
            for stage in replica.stages
        )

    def advance(self, count: int) -> None:
        self._done += count
        self._callback(self._done, self._total)


def _start_replica(
    planned: PlannedModel, replica: ReplicaPlan, name: str, on_failure: ExitStack, progress: _Progress
) -> Executor:
    """A plan of one worker runs here; any other as child processes, which load while this process goes on."""
    plan = planned.plan
    if plan.num_workers == 1:
        return InProcessExecutor(_load_whole_model(planned, replica, progress))
    stages = [
        [_load_message(planned, replica, index, rank) for rank in range(len(stage.shards))]
        for index, stage in enumerate(replica.stages)
    ]
    executor = LocalExecutor(name, stages, planned.source.config.hidden_size)
    on_failure.callback(executor.close)
    return executor


def _load_whole_model(planned: PlannedModel, replica: ReplicaPlan, progress: _Progress) -> Stage:
    config = StageConfig.of(_load_message(planned, replica, 0, 0))
    return Stage(planned.source, config, lambda done, total: progress.advance(1))


def _load_message(planned: PlannedModel, replica: ReplicaPlan, index: int, rank: int) -> LoadStage:
    plan, stage = planned.plan, replica.stages[index]
    shard = stage.shards[rank]
    return LoadStage(
        version=PROTOCOL_VERSION,
        model_path=str(planned.path),
        precision=stage.precision,
        first_layer=stage.first_layer,
        last_layer=stage.last_layer,
        num_layers=planned.source.config.num_layers,
        threads=shard.threads,
        cores=shard.cores,
        num_blocks=replica.num_blocks,
        block_size=plan.block_size,
        max_step_tokens=plan.max_step_tokens,
        max_context=plan.max_context,
        generation=Generation(0),
        stage_index=index,
        num_stages=len(replica.stages),
        rank=rank,
        num_shards=len(stage.shards),
        kv_heads=shard.part.kv_heads,
        columns=shard.part.columns,
        vocabulary=shard.part.vocabulary,
        wide_kernels=plan.wide_kernels,
        exact_activations=plan.exact_activations,
    )


def _scheduler_config(plan: Plan, replica: ReplicaPlan) -> SchedulerConfig:
    num_stages = len(replica.stages)
    return SchedulerConfig(
        block_size=plan.block_size,
        num_blocks=replica.num_blocks,
        max_seqs=plan.max_seqs,
        max_step_tokens=plan.max_step_tokens,
        max_context=plan.max_context,
        num_micro_batches=num_stages,
        prefill_chunk_tokens=min(plan.max_step_tokens, max(_SMALLEST_CHUNK_TOKENS, plan.max_step_tokens // num_stages)),
    )


def _cache_root() -> Path:
    """Where things that took long to make are kept. Source: XDG Base Directory Specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shoal"


def parse_precision(text: str) -> Precision:
    """A precision as the user spells it. Raises ConfigError."""
    if text not in get_args(Precision):
        raise ConfigError(f"unknown precision {text!r}: use one of {', '.join(get_args(Precision))}")
    return cast(Precision, text)

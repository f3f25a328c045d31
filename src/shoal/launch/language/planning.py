"""From what the user asked for to a plan: a split said by hand, a stored plan, or one that is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from shoal.config import LaunchConfig
from shoal.core.plan.language import Block, Plan, ShardPart, held_bytes
from shoal.core.speed.routing import Routing, parse_routing
from shoal.errors import ConfigError
from shoal.launch.language.plan_bytes import with_exact_activations, with_process_bytes
from shoal.machines.machines import Machines
from shoal.machines.opening import open_machines
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.decoder_config import DecoderConfig
from shoal.model.file_states import model_states
from shoal.model.formats.model_path import resolve_model, resolve_settings
from shoal.model.formats.open_weights import open_sizes, open_weights
from shoal.model.shard_source import ShardSource, shard_atoms, whole_part
from shoal.model.weights import Precision, WeightSource
from shoal.planner.link_precision import parse_link_precisions
from shoal.planner.memory.fit import check_memory
from shoal.planner.memory.kv_room import default_kv_bytes, default_kv_tokens
from shoal.planner.split.machine_places import place_on_machines
from shoal.planner.split.manual import plan_from_spec
from shoal.planner.split.shares import shard_parts
from shoal.planner.split.split_spec import SplitSpec, parse_split
from shoal.protocol.messages import FileState

if TYPE_CHECKING:
    from shoal.launch.language.auto_plan import AutoPlan
    from shoal.planner.speeds.speeds import Fleet

AUTO = "auto"
_BLOCK_SIZE = 16
"""Tokens in a KV block. Source: arXiv 2309.06180, section 7.2: 16 loses little to fragmentation at any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model that is resolved and planned, with nothing started yet."""

    path: Path
    plan: Plan
    source: WeightSource
    in_process: bool = True
    """see LaunchConfig.in_process"""
    auto: AutoPlan | None = None
    """what the plan was chosen from; None: it was given"""
    routing: Routing = "earliest-finish"
    """which replica a request goes to"""
    replans: bool = False
    """see LaunchConfig.replans"""
    machines: Machines | None = None
    """that the plan is for; None: this one"""
    files: tuple[FileState, ...] = ()
    """the model's, as they were when `source` was opened"""
    keep_weights: bool = True
    """see LaunchConfig.keep_weights"""

    def close(self) -> None:
        """Leave other machines. Idempotent; not needed where the plan is launched."""
        if self.machines is not None:
            self.machines.close()


def plan_model(config: LaunchConfig, on_progress: Callable[[str], None] = lambda what: None) -> PlannedModel:
    """Resolve the model and decide its split; weights are read only to measure, for `auto`.

    Args:
        config: what the user asked for.
        on_progress: told what is being measured.

    Raises:
        ConfigError: the split, plan, precision, routing or limits make no sense for this model.
        ModelLoadError: the file is missing, broken or of an unknown kind.
        CapacityError: it needs more memory than there is.
        WorkerLost: another machine does not answer.
    """
    with ExitStack() as on_failure:
        machines = open_machines(config.planning.cluster)
        if machines is not None:
            on_failure.callback(machines.close)
        planned = _plan_for(config, machines, on_progress)
        on_failure.pop_all()
    return planned


def _plan_for(config: LaunchConfig, machines: Machines | None, on_progress: Callable[[str], None]) -> PlannedModel:
    """See `plan_model`."""
    spec = None if config.plan_file or config.split == AUTO else parse_split(config.split)
    routing = parse_routing(config.routing)
    link_precisions = parse_link_precisions(config.planning.link_precision)
    settings_suffice = config.planning.settings_suffice and _describes_all(config.planning.cluster)
    path = resolve_settings(config.model) if settings_suffice else resolve_model(config.model)
    files = model_states(path)
    source = open_sizes(path) if settings_suffice else open_weights(path)
    precision = parse_precision(config.precision)
    if machines is not None:
        on_progress("whether all machines have the model")
        machines.find_model(path)
    auto: AutoPlan | None = None
    if config.plan_file is not None:
        plan = _stored_plan(config.plan_file, config, source)
    elif spec is None:
        auto = _auto_plan(config, path, source, precision, machines, on_progress)
        plan = auto.plan
    else:
        plan = _plan_by_hand(config, spec, source, precision, machines)
    plan = replace(plan, shape=model_shape(source.config))
    if config.exact_activations:
        plan = with_exact_activations(plan)
    plan = with_process_bytes(plan, source.config)
    if len(link_precisions) == 1:
        plan = replace(plan, link_precision=link_precisions[0])
    _check_fits(plan, source)
    return PlannedModel(
        path=path,
        plan=plan,
        source=source,
        in_process=config.in_process,
        auto=auto and replace(auto, plan=plan),
        routing=routing,
        replans=config.replans,
        machines=machines,
        files=files,
        keep_weights=config.keep_weights,
    )


def compute_exactly(planned: PlannedModel) -> PlannedModel:
    """The same plan without 8-bit activations: two ways to compute it agree but for the order of sums."""
    return replace(planned, plan=with_exact_activations(planned.plan))


def _check_fits(plan: Plan, source: WeightSource) -> None:
    """Against this machine's memory: other machines are looked at where workers are placed on them."""
    if any(shard.machine for replica in plan.replicas for shard in replica.shards):
        return
    blocks = decoder_blocks(source, parse_precision(plan.precision), exact_activations=plan.exact_activations)
    check_memory(plan, blocks=blocks, available_bytes=free_memory_bytes())


def measure_fleets(config: LaunchConfig, on_progress: Callable[[str], None] = lambda what: None) -> list[Fleet]:
    """What `auto` would choose from: every division of this machine, or the machines of the cluster file.

    Raises:
        ConfigError, ModelLoadError, CapacityError: as for `plan_model`.
        WorkerLost: a measuring process died or did not answer.
    """
    from shoal.launch.language.auto_plan import find_fleets  # and all that measures

    path = resolve_model(config.model)
    source, precision = open_weights(path), parse_precision(config.precision)
    machines = open_machines(config.planning.cluster)
    try:
        if machines is not None:
            machines.find_model(path)
        fleets = find_fleets(config.planning, path, source, (precision,), config.threads, machines, on_progress)
    finally:
        if machines is not None:
            machines.close()
    return [one.fleet for one in fleets]


def model_shape(config: DecoderConfig) -> str:
    """What a model looks like, in one line."""
    return (
        f"{config.family}, {config.num_layers} layers of {config.hidden_size}, {config.num_heads} heads in "
        f"{config.num_kv_heads} groups, {config.intermediate_size} MLP columns, {config.vocab_size} tokens"
    )


def parse_precision(text: str) -> Precision:
    """A precision as the user spells it. Raises ConfigError."""
    if text not in get_args(Precision):
        raise ConfigError(f"unknown precision {text!r}: use one of {', '.join(get_args(Precision))}")
    return cast(Precision, text)


def _describes_all(cluster: str | None) -> bool:
    """See `fleets.describes_all`."""
    from shoal.launch.language.fleets import describes_all  # and all that measures

    return describes_all(cluster)


def _stored_plan(name: str, config: LaunchConfig, source: WeightSource) -> Plan:
    from shoal.planner.files.plan_check import check_plan
    from shoal.planner.files.plan_file import check_shape, read_plan  # and the parser of YAML

    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the plan {name}: {error}") from error
    plan = read_plan(text, name)
    if not isinstance(plan, Plan):
        raise ConfigError(f"{name} is a plan for an ONNX graph, but {config.model} is a language model")
    check_shape(plan, model_shape(source.config), config.model)
    try:
        check_plan(plan, num_layers=source.config.num_layers, atoms=shard_atoms(source.config))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return replace(plan, model=config.model)


def _auto_plan(
    config: LaunchConfig,
    path: Path,
    source: WeightSource,
    precision: Precision,
    machines: Machines | None,
    on_progress: Callable[[str], None],
) -> AutoPlan:
    from shoal.launch.language.auto_plan import AutoPlanner  # and all that measures and searches
    from shoal.planner.choice.spell import Limits

    planning = config.planning
    return AutoPlanner(
        planning,
        model=config.model,
        shape=model_shape(source.config),
        path=path,
        source=source,
        precision=precision,
        threads=config.threads,
        limits=Limits(
            block_size=_BLOCK_SIZE,
            max_context=_max_context(config, source),
            max_step_tokens=config.max_step_tokens,
            max_seqs=config.max_seqs,
            kv_memory_bytes=config.kv_memory_bytes,
            least_kv_tokens=planning.streams * (planning.prompt_tokens + planning.output_tokens),
        ),
        machines=machines,
    ).plan(on_progress)


def _plan_by_hand(
    config: LaunchConfig, spec: SplitSpec, source: WeightSource, precision: Precision, machines: Machines | None
) -> Plan:
    """On several machines as if all had the memory of the smallest."""
    available_bytes = free_memory_bytes() if machines is None else _memory_of(machines, spec)
    blocks = _cut_blocks(source, precision, spec, config.exact_activations)
    kv_memory_bytes = config.kv_memory_bytes
    if kv_memory_bytes is None:
        kv_memory_bytes = default_kv_bytes(
            default_kv_tokens(config.max_seqs, _max_context(config, source)),
            blocks.kv_bytes_per_token,
            num_replicas=spec.num_replicas,
            free_bytes=available_bytes - spec.num_replicas * blocks.weight_bytes,
        )
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
        max_context=_max_context(config, source),
        max_seqs=config.max_seqs,
        max_step_tokens=config.max_step_tokens,
    )
    plan = replace(plan, exact_activations=config.exact_activations)
    return plan if machines is None else place_on_machines(plan, machines.cores(), config.threads)


def _memory_of(machines: Machines, spec: SplitSpec) -> int:
    return machines.free_memory_bytes() * min(len(machines.cores()), spec.num_workers)


def _max_context(config: LaunchConfig, source: WeightSource) -> int:
    return min(config.max_context or source.config.max_context, source.config.max_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """The model's blocks, cut into shards."""

    parts: tuple[ShardPart, ...]
    shards: tuple[list[Block], ...]
    """blocks of each shard: embedding, layers, head"""

    @property
    def weight_bytes(self) -> int:
        """Bytes of one replica's weights."""
        return sum(map(held_bytes, self.shards))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that a token of context takes in one replica."""
        return sum(block.kv_bytes_per_token for blocks in self.shards for block in blocks)


def _cut_blocks(source: WeightSource, precision: Precision, spec: SplitSpec, exact_activations: bool) -> _Blocks:
    parts = (whole_part(source.config),)
    if spec.num_shards > 1:
        parts = shard_parts(shard_atoms(source.config), spec.shares)
    sources = [ShardSource(source, part) for part in parts] if spec.num_shards > 1 else [source]
    shards = tuple(decoder_blocks(one, precision, exact_activations=exact_activations) for one in sources)
    return _Blocks(parts=parts, shards=shards)

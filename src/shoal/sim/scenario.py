"""A random scenario of a language model, drawn from a seed: replicas, requests and faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from shoal.core.generation.scheduler_config import SchedulerConfig, check_request
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.sequences.request import Request, RequestId
from shoal.errors import ShoalError
from shoal.protocol.language_messages import Sampling
from shoal.sim.faults import Absence, Crash, Fault, Hang, Network, Poison, Replacement, ReplicaJoins, Slowdown, Starting
from shoal.sim.reference_model import VOCAB_SIZE, SimulatedGuide, undisturbed_outcome
from shoal.sim.simulated_replica import StepCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A client's request, which may be cancelled."""

    at_s: float
    request: Request
    cancelled_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that determines a simulation run."""

    seed: int
    config: SchedulerConfig
    recovery: RecoveryConfig
    costs: tuple[StepCost, ...]
    """The costs of each replica."""
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]
    poisons: tuple[Poison, ...]
    network: Network
    starting: Starting


def make_scenario(seed: int) -> Scenario:
    """Draw a scenario. Sizes are small, so that limits are reached often and a run takes milliseconds."""
    rng = Random(seed)
    config = _with_states(_draw_config(rng))
    costs = tuple(
        StepCost(fixed_s=rng.uniform(0.001, 0.02), token_s=rng.uniform(0.0001, 0.002)) for _ in range(rng.randint(1, 3))
    )
    arrivals = _draw_arrivals(rng, config)
    is_quiet = rng.random() < 0.25
    drawn = Scenario(
        seed=seed,
        config=config,
        recovery=RecoveryConfig(
            worker_timeout_s=rng.uniform(0.1, 0.5), load_timeout_s=0.5, backoff_s=0.05, max_backoff_s=0.5, settled_s=0.5
        ),
        costs=costs,
        arrivals=arrivals,
        faults=() if is_quiet else draw_faults(rng, len(costs), horizon_s=arrivals[-1].at_s + 0.5),
        poisons=() if is_quiet or rng.random() < 0.7 else _draw_poisons(rng, arrivals),
        network=Network(
            repeat_probability=rng.choice((0.0, 0.1)),
            drop_probability=0.0 if is_quiet else rng.choice((0.0, 0.0, 0.01)),
            delay_s=rng.choice((0.0, 0.01)),
            late_probability=rng.choice((0.0, 0.5)),
        ),
        starting=Starting(
            shortest_s=0.01,
            longest_s=rng.uniform(0.02, 0.4),
            failure_probability=rng.choice((0.0, 0.0, 0.3)),
        ),
    )
    if rng.random() >= 0.8:
        joining = ReplicaJoins(at_s=rng.uniform(0, arrivals[-1].at_s + 0.2), replica=rng.randrange(len(costs)))
        drawn = replace(drawn, faults=(*drawn.faults, joining))
    if rng.random() < 0.5:
        drawn = replace(drawn, arrivals=_with_next_turns(rng, arrivals, config))
    if not is_quiet and rng.random() < 0.3:
        sizes = [config.num_micro_batches] * len(costs)
        drawn = replace(drawn, faults=(*drawn.faults, *draw_absences(rng, sizes, horizon_s=arrivals[-1].at_s + 0.2)))
    return drawn


def _draw_config(rng: Random) -> SchedulerConfig:
    block_size = rng.choice((1, 2, 4, 8))
    max_context = rng.randint(16, 48)
    num_blocks_of_longest = -(-max_context // block_size)
    max_step_tokens = rng.randint(2, 32)
    return SchedulerConfig(
        block_size=block_size,
        num_blocks=int(num_blocks_of_longest * rng.choice((0.7, 1.0, 1.5, 3.0, 10.0))) or 1,
        max_seqs=rng.randint(1, 10),
        max_step_tokens=max_step_tokens,
        max_context=max_context,
        prefill_chunk_tokens=rng.randint(1, max_step_tokens),
        num_micro_batches=rng.randint(1, 4),
    )


def _with_states(config: SchedulerConfig) -> SchedulerConfig:
    """Give half of the scenarios recurrent layers. That is not drawn, so that older seeds keep their other draws."""
    num_states = config.max_seqs + config.max_context % 5 if config.max_step_tokens % 2 else 0
    return replace(config, num_states=num_states)


def _draw_arrivals(rng: Random, config: SchedulerConfig) -> tuple[Arrival, ...]:
    """Draw bursts of up to 8 requests, some of which begin with the same text."""
    prefixes = [_draw_tokens(rng, rng.randint(0, config.max_context // 2)) for _ in range(3)]
    arrivals: list[Arrival] = []
    at_s = 0.0
    for _ in range(rng.randint(1, 5)):
        at_s += rng.expovariate(1 / 0.15)
        for _ in range(rng.randint(1, 8)):
            request = _draw_request(rng, RequestId(f"r{len(arrivals)}"), rng.choice(prefixes), config)
            cancelled_at_s = at_s + rng.expovariate(1 / 0.2) if rng.random() < 0.15 else None
            arrivals.append(Arrival(at_s=at_s, request=request, cancelled_at_s=cancelled_at_s))
    return tuple(arrivals)


def _with_next_turns(rng: Random, arrivals: tuple[Arrival, ...], config: SchedulerConfig) -> tuple[Arrival, ...]:
    """Add next turns of conversations: prompts that begin with an earlier prompt and its answer, mostly after that."""
    turns = list(arrivals)
    for _ in range(rng.randint(1, 6)):
        earlier = rng.choice(turns)
        transcript = earlier.request.prompt_ids + _answer(config, earlier.request)
        request = Request(
            request_id=RequestId(f"r{len(turns)}"),
            prompt_ids=transcript + _draw_tokens(rng, rng.randint(1, 4)),
            max_tokens=rng.randint(1, 20),
            sampling=Sampling(seed=rng.getrandbits(32)),
        )
        turns.append(Arrival(at_s=earlier.at_s + rng.expovariate(1 / 0.3), request=request))
    return tuple(sorted(turns, key=lambda turn: turn.at_s))


def _answer(config: SchedulerConfig, request: Request) -> tuple[int, ...]:
    """The answer to a request without faults; empty if it is refused."""
    try:
        check_request(config, request)
    except ShoalError:
        return ()
    return undisturbed_outcome(config, request).token_ids


def _draw_request(rng: Random, request_id: RequestId, prefix: tuple[int, ...], config: SchedulerConfig) -> Request:
    """Draw a request, mostly within the limits and sometimes just beyond them."""
    prompt_ids = prefix + _draw_tokens(rng, rng.randint(0, config.max_context // 2))
    targets = _draw_tokens(rng, rng.randint(1, 12)) if rng.random() < 0.15 else ()
    seed = rng.getrandbits(32)
    is_guided = not targets and seed % 4 == 0
    return Request(
        request_id=request_id,
        prompt_ids=prompt_ids,
        max_tokens=max(rng.randint(1, 20), len(targets)),
        min_tokens=0 if is_guided else (seed >> 2) % 5,
        sampling=Sampling(
            seed=seed,
            presence_penalty=rng.choice((0.0, 0.0, 0.5)),
            repetition_penalty=1.2 if (seed >> 5) % 4 == 0 else 1.0,
            repetition_window=(seed >> 7) % 3 * 4,
        ),
        stop_token_ids=frozenset(_draw_tokens(rng, 3)) if rng.random() < 0.4 else frozenset(),
        targets=targets,
        guide=SimulatedGuide(seed) if is_guided else None,
    )


def _draw_tokens(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(count))


def draw_faults(rng: Random, num_replicas: int, *, horizon_s: float) -> tuple[Fault, ...]:
    """Draw faults that occur alone, in quick succession, or everywhere at once."""
    faults: list[Fault] = []
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at_s, kind = rng.uniform(0, horizon_s), rng.choice(("crash", "crash", "hang", "slow", "replace"))
        hit = range(num_replicas) if rng.random() < 0.2 else [rng.randrange(num_replicas)]
        faults += [_draw_fault(rng, kind, at_s, replica) for replica in hit]
    return tuple(faults)


def draw_absences(rng: Random, sizes: Sequence[int], *, horizon_s: float) -> tuple[Fault, ...]:
    """Draw absences of the machines of one or two workers. `sizes`: workers of each replica."""
    absences: list[Fault] = []
    for _ in range(rng.choice((1, 1, 2))):
        at_s, replica = rng.uniform(0, horizon_s), rng.randrange(len(sizes))
        worker, back_at_s = rng.randrange(sizes[replica]), at_s + rng.choice((0.3, 2.0, 8.0))
        absences.append(Absence(at_s=at_s, replica=replica, worker=worker, back_at_s=back_at_s))
    return tuple(absences)


def _draw_fault(rng: Random, kind: str, at_s: float, replica: int) -> Fault:
    match kind:
        case "crash":
            return Crash(at_s=at_s, replica=replica, noticed_after_s=rng.choice((0.0, rng.uniform(0, 0.05))))
        case "hang":
            return Hang(at_s=at_s, replica=replica)
        case "slow":
            return Slowdown(at_s=at_s, replica=replica, factor=rng.uniform(2, 30))
        case _:
            return Replacement(at_s=at_s, replica=replica, load_s=rng.uniform(0.01, 0.3), num_stages=rng.randint(1, 4))


def _draw_poisons(rng: Random, arrivals: tuple[Arrival, ...]) -> tuple[Poison, ...]:
    """Draw one poisonous request, rarely two. Its row is in its prompt, or one that it may never reach."""
    chosen = rng.sample(arrivals, min(len(arrivals), rng.choice((1, 1, 2))))
    return tuple(
        Poison(
            request_id=arrival.request.request_id,
            row=rng.randrange(len(arrival.request.prompt_ids) + 6),
            hangs=rng.random() < 0.3,
        )
        for arrival in chosen
    )

"""The limits of one replica, and whether a request can be served within them."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.generation.steps.micro_batches import decode_share
from shoal.core.sequences.request import Request
from shoal.errors import CapacityError, ConfigError, InvalidRequest

MAX_STEP_TOKENS = 512
"""Rows of a step, as `shoal run` and `shoal serve` set it."""
SMALLEST_CHUNK_TOKENS = 64
"""The smallest prefill chunk of a pipeline, since every chunk reads all weights of a stage once."""
_CHUNKS_PER_STAGE = 2
"""While a pipeline fills and drains each stage idles for one chunk, and output rows wait behind one in every stage.
Source: docs/log.md, prefill chunks: a simulated pipeline gains 2 to 5 % over one chunk a stage, little from more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What one replica may use. Raises ConfigError if a value is out of range."""

    block_size: int
    """Tokens in a KV block, >= 1."""
    num_blocks: int
    """KV blocks of the replica, >= 1."""
    max_seqs: int
    """The most sequences that may hold KV blocks at once, >= 1."""
    max_step_tokens: int
    """The most rows of a step's flat batch, >= 1."""
    max_context: int
    """The most tokens of one sequence, prompt and output together, >= 2."""
    prefill_chunk_tokens: int
    """The most prefill rows in one step, 1 to max_step_tokens."""
    num_micro_batches: int = 1
    """The most steps in flight: as many as the pipeline has stages, >= 1."""
    num_states: int = 0
    """Slots for states of recurrent layers, one for each sequence and the rest for snapshots; 0: no such layers."""
    num_memories: int = 0
    """Slots for an encoder's outputs, shared by the requests over one clip; 0: the model has no encoder."""
    generation: int = 0
    """Generation of the workers that are there at the start, >= 0."""
    packs_steps: bool = True
    """Whether steps contain the arrays that workers read. Simulated workers, of which only the time matters, do
    without: their steps have only an id and a shape (`StepWork`), and no guide is asked."""

    def __post_init__(self) -> None:
        at_least = {
            "block_size": 1,
            "num_blocks": 1,
            "max_seqs": 1,
            "max_step_tokens": 1,
            "max_context": 2,
            "prefill_chunk_tokens": 1,
            "num_micro_batches": 1,
            "num_states": 0,
            "num_memories": 0,
            "generation": 0,
        }
        for name, minimum in at_least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least {minimum}")
        if self.num_states and self.num_states < self.max_seqs:
            raise ConfigError(f"num_states is {self.num_states}, but {self.max_seqs} sequences need a state each")
        if self.prefill_chunk_tokens > self.max_step_tokens:
            raise ConfigError(
                f"prefill_chunk_tokens ({self.prefill_chunk_tokens}) is more than "
                f"max_step_tokens ({self.max_step_tokens})"
            )

    def max_sequence_tokens(self, num_places: int = 1) -> int:
        """The most tokens, prompt and output, of each sequence of a request that has `num_places` sequences. The last
        output token needs no KV."""
        return min(self.max_context, self.num_blocks // num_places * self.block_size + 1)


def prefill_chunk(num_stages: int, max_step_tokens: int = MAX_STEP_TOKENS) -> int:
    """The most prompt rows in one step of a replica."""
    if num_stages == 1:
        return max_step_tokens
    return min(max_step_tokens, max(SMALLEST_CHUNK_TOKENS, max_step_tokens // (_CHUNKS_PER_STAGE * num_stages)))


def usual_rows(num_stages: int, *, max_seqs: int, max_step_tokens: int) -> int:
    """The most rows of a step of a replica, unless it has to hold a picture whole.

    Args:
        num_stages: of the replica, >= 1.
        max_seqs: sequences that may run at once.
        max_step_tokens: rows that no step exceeds.
    """
    return min(max_step_tokens, prefill_chunk(num_stages, max_step_tokens) + decode_share(max_seqs, num_stages))


def output_limit(config: SchedulerConfig, request: Request) -> int:
    """The output tokens after which a request ends with `length`: its max_tokens, or the room left by its prompt."""
    wanted = len(request.targets) or request.max_tokens
    return min(wanted, config.max_sequence_tokens(request.num_places) - len(request.prompt_ids))


def check_request(config: SchedulerConfig, request: Request) -> None:
    """Refuse a request that can never be served.

    Raises:
        InvalidRequest: an empty or over-long prompt, max_tokens below 1, more targets than fit, or impossible beams.
        CapacityError: the KV memory cannot hold it, even with nothing else running.
    """
    num_prompt = len(request.prompt_ids)
    if num_prompt == 0:
        raise InvalidRequest("the prompt is empty; give at least one token", param="prompt")
    if request.max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {request.max_tokens}, but it must be at least 1", param="max_tokens")
    if len(request.targets) > request.max_tokens:
        raise InvalidRequest(
            f"{len(request.targets)} targets are more than max_tokens ({request.max_tokens})", param="targets"
        )
    needed = num_prompt + max(1, len(request.targets))
    if needed > config.max_context:
        raise InvalidRequest(
            f"the prompt has {num_prompt} tokens and at least {needed - num_prompt} output tokens are "
            f"requested, but the context holds {config.max_context}; shorten the prompt",
            param="prompt",
        )
    if request.beams is not None:
        _check_beams(config, request)
    if request.attention is not None and (request.clip is None or not request.targets):
        raise InvalidRequest("attention can only be reported over a clip, for outputs that are given", param="targets")
    room = config.max_sequence_tokens(request.num_places)
    if needed > room:
        raise CapacityError(
            f"the request needs KV memory for {needed - 1} tokens, but there is room for {room - 1}; shorten the "
            "prompt or give more --kv-memory"
        )
    _check_pictures(config, request)


def _check_beams(config: SchedulerConfig, request: Request) -> None:
    if request.num_places > config.max_seqs:
        raise InvalidRequest(
            f"{request.num_places} beams are more than the {config.max_seqs} sequences that run at once (--max-seqs)",
            param="beam_size",
        )
    if config.num_states or request.targets:
        raise InvalidRequest(
            "beam search is not supported over recurrent layers, or for outputs that are given", "beam_size"
        )


def _check_pictures(config: SchedulerConfig, request: Request) -> None:
    """Check that a picture which must stay whole fits into a step beside one row of every other sequence."""
    room, pictures = config.max_step_tokens - config.max_seqs + 1, request.pictures
    if pictures is not None and pictures.sees_whole and pictures.most_rows > room:
        raise CapacityError(
            f"a picture has {pictures.most_rows} rows, which must go into one step, but there is room for "
            f"only {room}: give a lower --max-seqs"
        )

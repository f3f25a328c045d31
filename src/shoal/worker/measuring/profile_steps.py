"""Steps for measurements, like real ones except for their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.arrays import I32
from shoal.core.plan.state_room import HYPOTHESES
from shoal.model.decoder_config import EncoderConfig
from shoal.protocol.language_messages import Encoding, SampleRow, Sampling, Step, StepId
from shoal.protocol.profile_messages import TimeStep
from shoal.protocol.worker_messages import Generation

_NO_BLOCK = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """Rows of one sequence, after those that are in the KV cache."""

    num_rows: int
    past_tokens: int

    @property
    def end(self) -> int:
        return self.past_tokens + self.num_rows


def blocks_needed(asked: TimeStep, block_size: int) -> int:
    """KV blocks that the step's sequences need together."""
    return sum(-(-one.end // block_size) for one in _sequences(asked))


def states_needed(asked: TimeStep) -> int:
    """Slots for recurrent state: one for each of the step's sequences."""
    return len(_sequences(asked))


def memories_needed(asked: TimeStep) -> int:
    """Slots for encoder outputs: one for each clip, which several sequences may share."""
    return max(asked.clips, -(-len(_sequences(asked)) // HYPOTHESES))


def make_step(asked: TimeStep, *, block_size: int, vocab_size: int, encoder: EncoderConfig | None = None) -> Step:
    """The step that is asked for. Every sequence has blocks of its own, and as many rows as possible look up tokens.

    Args:
        asked: describes the step.
        block_size: tokens in a KV block.
        vocab_size: of the model.
        encoder: of the model; None: it has none.
    """
    sequences = _sequences(asked)
    clips = {} if encoder is None else _clips(asked.clips, len(sequences), encoder)
    num_rows = [one.num_rows for one in sequences]
    positions = np.concatenate([np.arange(one.past_tokens, one.end) for one in sequences])
    token_ids = np.arange(len(positions)) * 97 % vocab_size
    samples = tuple(
        SampleRow(row=row, token_index=0, sampling=Sampling(temperature=0.0))
        for row in range(len(positions) if asked.is_sampled else 0)
    )
    return Step(
        step_id=StepId(0),
        generation=Generation(0),
        token_ids=_pack(token_ids),
        positions=_pack(positions),
        query_starts=_pack(np.concatenate([[0], np.cumsum(num_rows)])),
        context_lens=_pack(np.array([one.end for one in sequences])),
        block_tables=_pack(_block_tables(sequences, block_size)),
        samples=samples,
        state_slots=_pack(np.array([(slot if one.past_tokens else -1, slot) for slot, one in enumerate(sequences)])),
        **clips,
    )


def _clips(count: int, num_sequences: int, encoder: EncoderConfig) -> dict[str, Any]:
    """The step's clips to encode, and the slot of each sequence."""
    features = np.random.default_rng(0).standard_normal((encoder.num_frames, encoder.num_mels), np.float32).tobytes()
    encodings = [Encoding(slot=slot, num_rows=encoder.num_positions, features=features) for slot in range(count)]
    return {"memory_slots": _pack(np.arange(num_sequences) // HYPOTHESES), "encodings": tuple(encodings)}


def _sequences(asked: TimeStep) -> list[_Sequence]:
    sequences = [_Sequence(num_rows=1, past_tokens=asked.past_tokens)] * asked.output_rows
    left = asked.prompt_rows
    while left > 0:
        sequences.append(_Sequence(num_rows=min(left, asked.prompt_tokens), past_tokens=asked.past_tokens))
        left -= asked.prompt_tokens
    return sequences


def _block_tables(sequences: list[_Sequence], block_size: int) -> I32:
    counts = [-(-one.end // block_size) for one in sequences]
    tables = np.full((len(counts), max(counts)), _NO_BLOCK, np.int32)
    first = 0
    for table, count in zip(tables, counts, strict=True):
        table[:count] = np.arange(first, first + count)
        first += count
    return tables


def _pack(values: npt.NDArray[np.generic]) -> bytes:
    return values.astype("<i4").tobytes()

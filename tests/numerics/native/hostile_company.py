"""Requests of every kind, drawn at random, and an engine that treats them badly: they share steps of few blocks with
others that come later, are cancelled or are searched for, and workers die under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shoal.core.sequences.beams import BeamSearch
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenGuide, TokenProduced
from shoal.errors import WorkerLost
from shoal.protocol.language_messages import Sampling, StepResult
from shoal.router.engine import Engine
from tests.model.tiny_models import VOCAB_SIZE
from tests.numerics.engines import GREEDY, PipelineExecutor, random_tokens

BLOCK_SIZE = 16
MAX_TOKENS = 48
MAX_PROMPT = 150
_EDGES = (1, 2, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE, 65)
"""Lengths of prompts at which chunks, blocks and tiles begin or end."""
_BEAM_PROMPT = 16
"""Tokens: three hypotheses fit into the fewest blocks."""
_TURN_S = 60.0


class HashedGuide:
    """Allows tokens that follow from the outputs so far: half of the vocabulary, nearly all, or one or two."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        """See `TokenGuide`."""
        rng = np.random.default_rng([self._seed, *outputs])
        bits_V = rng.random(VOCAB_SIZE) < rng.choice([0.5, 0.97, 0.003])
        bits_V[rng.integers(VOCAB_SIZE)] = True
        return np.packbits(bits_V, bitorder="little").tobytes()

    def again(self) -> HashedGuide:
        """Another one that allows the same."""
        return HashedGuide(self._seed)


class MortalExecutor(PipelineExecutor):
    """Stages that others use as well. They are lost after some steps, if they are to die."""

    def __init__(self, executor: PipelineExecutor, *, num_steps: int | None = None) -> None:
        """`num_steps`: that are answered before the loss; None: they stay."""
        super().__init__(executor.stages, executor.num_states)
        self._left = num_steps

    def poll(self) -> list[StepResult]:
        if self._left == 0:
            raise WorkerLost("the worker was killed")
        self._left = None if self._left is None else self._left - 1
        return super().poll()

    def fence(self) -> None:
        """They are nobody else's."""

    def kill(self) -> bool:
        return True


@dataclass(slots=True)
class Answer:
    """What came of a request."""

    tokens: list[TokenProduced] = field(default_factory=list[TokenProduced])
    end: RequestFinished | None = None

    def said(self) -> tuple[object, ...]:
        """All of it that must not depend on others."""
        assert self.end is not None
        told = [(one.token_id, one.logprobs, one.logits, one.hidden) for one in self.tokens]
        return told, self.end.reason, self.end.num_prompt_tokens, self.end.num_output_tokens


def run_together(
    engine: Engine, requests: Sequence[Request], rng: np.random.Generator, *, share_cancelled: float = 0.0
) -> Mapping[RequestId, Answer]:
    """Runs requests that come some turns after each other, of which some are cancelled later. What became of each."""
    answers = {request.request_id: Answer() for request in requests}
    arrivals = sorted((int(rng.integers(0, 12)), index) for index in range(len(requests)))
    doomed = {int(rng.integers(1, 30)): request.request_id for request in requests if rng.random() < share_cancelled}
    turn = 0
    while arrivals or engine.has_work:
        while arrivals and arrivals[0][0] <= turn:
            engine.add(requests[arrivals.pop(0)[1]])
        if turn in doomed:
            engine.cancel(doomed[turn])
        for output in engine.turn(_TURN_S) if engine.has_work else ():
            answer = answers[output.request_id]
            if isinstance(output, TokenProduced):
                answer.tokens.append(output)
            else:
                assert answer.end is None
                answer.end = output
        turn += 1
    return answers


def draw_requests(
    rng: np.random.Generator,
    count: int,
    *,
    has_beams: bool,
    max_prompt: int = MAX_PROMPT,
    variants: Sequence[Mapping[str, Any]] = ({},),
) -> list[Request]:
    """Requests with prompts that partly begin alike.

    Args:
        rng: draws them.
        count: how many.
        has_beams: whether some are searches.
        max_prompt: tokens.
        variants: fields of requests, of which each has one of these.
    """
    texts = [random_tokens(max_prompt, seed=int(rng.integers(1000))) for _ in range(3)]
    requests = [_draw_request(rng, f"{index}", texts, has_beams=has_beams) for index in range(count)]
    return [replace(request, **variants[rng.integers(len(variants))]) for request in requests]


def again(request: Request) -> Request:
    """The same request: a guide serves one only."""
    return replace(request, guide=request.guide.again()) if isinstance(request.guide, HashedGuide) else request


def _draw_request(rng: np.random.Generator, name: str, texts: Sequence[list[int]], *, has_beams: bool) -> Request:
    prompt = _draw_prompt(rng, texts)
    plain = Request(
        request_id=RequestId(name),
        prompt_ids=tuple(prompt),
        max_tokens=int(rng.integers(1, MAX_TOKENS)),
        sampling=GREEDY,
        want_logits=True,
    )
    match rng.integers(8):
        case 0 | 1:
            return plain
        case 2 | 3:
            return replace(plain, sampling=_draw_sampling(rng))
        case 4:  # echo with log-probabilities
            sampling = Sampling(temperature=0.0, num_logprobs=int(rng.integers(0, 6)))
            targets = tuple(prompt[1:] or [5])
            return replace(
                plain, prompt_ids=tuple(prompt[:1]), targets=targets, max_tokens=len(targets), sampling=sampling
            )
        case 5:
            return replace(plain, want_hidden=True, want_logits=False, max_tokens=1)
        case 6:
            guide: TokenGuide = HashedGuide(int(rng.integers(1000)))
            return replace(plain, guide=guide, sampling=_draw_sampling(rng))
        case _:
            stops = frozenset(rng.integers(3, VOCAB_SIZE, 60).tolist())
            if has_beams and rng.random() < 0.5:
                beams = BeamSearch(num_beams=int(rng.integers(2, 4)))
                prompt_ids = plain.prompt_ids[:_BEAM_PROMPT]
                sampling = Sampling(temperature=0.0, num_logprobs=beams.num_candidates)
                changes = {"prompt_ids": prompt_ids, "beams": beams, "sampling": sampling, "want_logits": False}
                return replace(plain, stop_token_ids=stops, **changes)
            return replace(plain, stop_token_ids=stops, min_tokens=min(plain.max_tokens, 4))


def _draw_prompt(rng: np.random.Generator, texts: Sequence[list[int]]) -> list[int]:
    text = texts[rng.integers(len(texts))]
    if rng.random() < 0.4:
        return text[: int(rng.choice(_EDGES))]
    head = text[: int(rng.integers(0, len(text) - 20))]
    return head + rng.integers(3, VOCAB_SIZE, rng.integers(1, 20)).tolist()


def _draw_sampling(rng: np.random.Generator) -> Sampling:
    return Sampling(
        temperature=float(rng.choice([0.0, 0.3, 1.0, 1.7])),
        top_p=float(rng.choice([1.0, 0.9, 0.3])),
        top_k=int(rng.choice([0, 1, 7, 400])),
        min_p=float(rng.choice([0.0, 0.05])),
        presence_penalty=float(rng.choice([0.0, 0.7])),
        frequency_penalty=float(rng.choice([0.0, -0.4])),
        repetition_penalty=float(rng.choice([1.0, 1.3])),
        repetition_window=int(rng.choice([0, 9])),
        logit_bias=((int(rng.integers(VOCAB_SIZE)), 3.5),) if rng.random() < 0.3 else (),
        num_logprobs=None if rng.random() < 0.5 else int(rng.integers(0, 8)),
        seed=int(rng.integers(1 << 40)),
    )

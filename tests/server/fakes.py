"""A deterministic engine and a byte-level tokenizer: real implementations of the server's seams, without a model."""

from __future__ import annotations

import codecs
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.core.recovery.replica_status import ReplicaWork
from shoal.core.recovery.worker_life import Phase
from shoal.core.sequences.request import (
    FinishReason,
    Output,
    Request,
    RequestFinished,
    RequestId,
    TokenGuide,
    TokenProduced,
)
from shoal.core.story import Story
from shoal.errors import CapacityError, InvalidRequest, WorkerLost
from shoal.model.text.grammar.compiler import GrammarCompiler
from shoal.model.text.grammar.constraint import Constraint
from shoal.model.text.grammar.guide import GrammarGuide
from shoal.protocol.language_messages import TokenLogprobs

EOS = 256


def ids(text: str) -> list[int]:
    """Byte tokens of a text."""
    return list(text.encode())


class ByteDetokenizer:
    """Incremental UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id])) if token_id < EOS else ""

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """A token is a byte; 256 ends a text."""

    eos_token_ids = frozenset({EOS})
    special_token_ids = eos_token_ids
    vocab_size = 257
    max_token_chars = 1

    def __init__(self, *, has_chat_template: bool = True) -> None:
        self.has_chat_template = has_chat_template

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return ids(text)

    template_source = ""

    def special_token_id(self, text: str) -> int | None:
        return None

    def added_token_id(self, text: str) -> int | None:
        return None

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if messages[0]["role"] == "assistant":
            raise InvalidRequest("conversation roles must alternate", param="messages")
        offered = "<tools>" + " ".join(tool["function"]["name"] for tool in tools) if tools else ""
        turns = (f"<{message['role']}>{_call_text(message)}{message['content']}" for message in messages)
        told = variables or {}
        answer = "<assistant>" + told.get("opening", "") if told.get("add_generation_prompt", True) else ""
        return offered + "".join(turns) + answer

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token_id for token_id in ids if token_id < EOS).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < EOS else b"<eos>"

    def guide(self, constraint: Constraint) -> GrammarGuide:
        return GrammarCompiler(self).guide(constraint)

    def detokenizer(self, context: Sequence[int] = (), *, skip_special: bool = True) -> ByteDetokenizer:
        return ByteDetokenizer()


def _call_text(message: Mapping[str, Any]) -> str:
    return "".join(json.dumps(call["function"]) for call in message.get("tool_calls", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeStats:
    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.25
    prefix_query_tokens: int = 40
    prefix_hit_tokens: int = 16
    num_preemptions: int = 3
    max_context: int = 512
    max_running: int = 256
    num_replicas: int = 2
    num_recovering: int = 0
    num_losses: int = 0
    num_replays: int = 0
    replayed_tokens: int = 0
    num_recoveries: int = 0
    recoveries_s: tuple[float, ...] = ()
    slowdowns: tuple[tuple[float, ...], ...] = ((1.0, 2.5), (1.25,))
    stage_s: tuple[tuple[float, ...], ...] = ((0.01, 0.02), (0.03,))
    phases: tuple[Phase, ...] = (Phase.SERVING, Phase.STARTING)
    reduced: tuple[bool, ...] = (True, False)
    work: tuple[ReplicaWork, ...] = (
        ReplicaWork(num_running=2, num_waiting=1, kv_usage=0.5, busy_s=(3.0, 6.0), pids=(11, 12)),
        ReplicaWork(num_running=0, num_waiting=0, kv_usage=0.0, busy_s=(1.5,)),
    )


def reply_to(request: Request) -> list[int]:
    """What the fake model says: a text named in the prompt as {text}, or else one that depends on the seed."""
    prompt = bytes(token_id for token_id in request.prompt_ids if token_id < EOS).decode(errors="replace")
    if "{" in prompt:
        return ids(prompt[prompt.rindex("{") + 1 : prompt.rindex("}")])
    return ids(f"seed {request.sampling.seed} says hello")


class FakeEngine:
    """One token of every request a turn: `reply(request)`, then EOS for ever. Thread-safe where Engine is."""

    def __init__(self, *, reply: Callable[[Request], list[int]] = reply_to, stall_after: int | None = None) -> None:
        self.reply = reply
        self.stall_after = stall_after
        """produce so many tokens of a request, then wait"""
        self.requests: list[Request] = []
        self.cancelled: list[RequestId] = []
        self.cancel_seen = threading.Event()
        self.added = threading.Semaphore(0)
        """released once for every request"""
        self.dies_of_request: str | None = None
        """why the turn after the next request fails"""
        self.verdict: str | None = None
        """what the turn after the next wake fails all requests with"""
        self.max_prompt_tokens = 400
        self.story = Story()
        self.base_stats = FakeStats()
        """what `stats` says but for the requests that run"""
        self.num_turns = 0
        self.closed = False
        self._running: dict[RequestId, tuple[Request, list[int], int]] = {}
        self._outputs: deque[Output] = deque()
        self._woken = threading.Event()
        self._death: str | None = None
        self._hang: threading.Event | None = None

    def kill(self, reason: str) -> None:
        """Make the next turn fail, from any thread."""
        self._death = reason
        self.wake()

    def release(self) -> None:
        """Let stalled requests go on, from any thread."""
        self.stall_after = None
        self.wake()

    def condemn(self, verdict: str) -> None:
        """Fail every request and go on, from any thread."""
        self.verdict = verdict
        self.wake()

    def hang(self) -> threading.Event:
        """Make the next turn last until the event that is returned is set, from any thread."""
        self._hang = threading.Event()
        self.wake()
        return self._hang

    def add(self, request: Request) -> None:
        if len(request.prompt_ids) > self.max_prompt_tokens:
            raise CapacityError("the prompt can never fit into the KV memory")
        self.requests.append(request)
        self.added.release()
        self._running[request.request_id] = (request, self.reply(request), 0)

    def cancel(self, request_id: RequestId) -> None:
        if request_id in self._running:
            self.cancelled.append(request_id)
            self._finish(request_id, "cancelled")
            self.cancel_seen.set()

    def turn(self, timeout_s: float) -> list[Output]:
        self.num_turns += 1
        if self._hang is not None:
            self._hang.wait(30)
        if self.verdict is not None:
            for request_id in list(self._running):
                self._finish(request_id, "error", self.verdict)
            self.verdict = None
        if self._running and self.dies_of_request is not None:
            raise WorkerLost(self.dies_of_request)
        progress = [self._step(request_id) for request_id in list(self._running)]
        if not any(progress) and not self._outputs:
            self._woken.wait(timeout_s)
        self._woken.clear()
        if self._death is not None:
            raise WorkerLost(self._death)
        outputs = list(self._outputs)
        self._outputs.clear()
        return outputs

    def wake(self) -> None:
        self._woken.set()

    def stats(self) -> FakeStats:
        return replace(self.base_stats, num_running=len(self._running))

    def close(self) -> None:
        self.closed = True

    def _step(self, request_id: RequestId) -> bool:
        request, reply, count = self._running[request_id]
        if self.stall_after is not None and count >= self.stall_after:
            return False
        token_id = reply[count] if count < len(reply) else EOS
        if request.targets:
            token_id = request.targets[count]
        if request.guide is not None:
            token_id = self._guided(request.guide, reply, count, token_id)
        self._running[request_id] = (request, reply, count + 1)
        self._outputs.append(
            TokenProduced(request_id=request_id, token_id=token_id, logprobs=_logprobs(request, token_id))
        )
        if token_id in request.stop_token_ids:
            self._finish(request_id, "stop")
        elif count + 1 == request.max_tokens:
            self._finish(request_id, "length")
        return True

    @staticmethod
    def _guided(guide: TokenGuide, reply: list[int], count: int, wanted: int) -> int:
        """The wanted token if it is allowed, else the end, else the last letter; the reply remembers it."""
        mask = guide.allowed(reply[:count])
        allowed = [token_id for token_id in range(EOS + 1) if mask[token_id // 8] >> token_id % 8 & 1]
        possible = [token_id for token_id in (wanted, EOS) if token_id in allowed]
        choice = possible[0] if possible else max(token_id for token_id in allowed if token_id < 128)
        reply[count:] = [choice, *reply[count + 1 :]]
        return reply[count]

    def _finish(self, request_id: RequestId, reason: FinishReason, message: str = "") -> None:
        request, _, count = self._running.pop(request_id)
        self._outputs.append(
            RequestFinished(
                request_id=request_id,
                reason=reason,
                num_prompt_tokens=len(request.prompt_ids),
                num_output_tokens=count,
                num_cached_tokens=2,
                message=message,
            )
        )


def _logprobs(request: Request, token_id: int) -> TokenLogprobs | None:
    num_top = request.sampling.num_logprobs
    if num_top is None:
        return None
    top_ids = (token_id, *range(65, 65 + num_top))[:num_top]
    values = (-0.5, *(-float("inf") for _ in range(num_top)))[:num_top]
    return TokenLogprobs(logprob=-0.5, top_ids=top_ids, top_logprobs=values)

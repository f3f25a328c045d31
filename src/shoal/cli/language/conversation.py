"""Turns of `shoal run`: the prompt in, the answer out as it comes, the figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shoal.bench.generation import Generation, generate
from shoal.cli.shared.text_input import decoded
from shoal.cli.show.output import note, print_json
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import ConfigError
from shoal.generation.choice import Choice
from shoal.generation.text_stream import TextStream, prepare_stops
from shoal.launch.launch import LoadedModel
from shoal.planner.files.plan_data import plan_dict
from shoal.protocol.messages import Sampling


class Conversation:
    """Turns of one conversation with a loaded model."""

    def __init__(
        self,
        loaded: LoadedModel,
        sampling: Sampling,
        max_tokens: int,
        *,
        stops: Sequence[str] = (),
        system: str | None = None,
        stream: bool,
        raw: bool,
    ) -> None:
        """Raises ConfigError where there is a system message and no chat template.

        Args:
            loaded: the model.
            sampling: how tokens are drawn.
            max_tokens: of an answer.
            stops: texts that end an answer; they are not part of it.
            system: the message before all others.
            stream: print answers as they come.
            raw: prompts are plain text, not turns of a conversation.
        """
        self._loaded = loaded
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._stops = prepare_stops(stops)
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._stream = stream
        self._is_chat = loaded.tokenizer.has_chat_template and not raw
        if system is not None and not self._is_chat:
            raise ConfigError("--system needs a chat template, which this model does not have")
        self._num_turns = 0

    def answer_once(self, text: str, *, plan_s: float, load_s: float, as_json: bool) -> None:
        """One prompt, then the figures."""
        answer, generation = self._answer([{"role": "user", "content": text}])
        num_tokens, elapsed_s = len(generation.token_ids), generation.token_times_s[-1] - generation.token_times_s[0]
        tokens_per_s = (num_tokens - 1) / elapsed_s if elapsed_s > 0 else 0.0
        if as_json:
            figures = {
                "text": answer,
                "finish_reason": generation.finish_reason,
                "prompt_tokens": len(generation.request.prompt_ids),
                "completion_tokens": num_tokens,
                "ttft_s": generation.ttft_s,
                "tokens_per_s": tokens_per_s,
                "plan_s": plan_s,
                "load_s": load_s,
            }
            print_json({"model": self._loaded.plan.model, **figures, "plan": plan_dict(self._loaded.plan)})
        else:
            note(
                f"\n{num_tokens} tokens, {tokens_per_s:.1f} tokens/s, "
                f"time to first token {generation.ttft_s * 1e3:.0f} ms "
                f"({len(generation.request.prompt_ids)} prompt tokens), planned and measured in {plan_s:.1f} s, "
                f"loaded in {load_s:.1f} s"
            )
            predicted = self._loaded.plan.predicted
            if predicted is not None and predicted.streams == 1 and tokens_per_s:
                error = 1.0 / predicted.tpot_s / tokens_per_s - 1.0
                note(f"predicted {1.0 / predicted.tpot_s:.1f} tokens/s after the first token ({error:+.0%})")

    def converse(self) -> None:
        """Turn by turn until end of input."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                text = decoded(lambda: input("> " if sys.stdin.isatty() else ""))
            except EOFError:
                return
            if not text.strip():
                continue
            messages.append({"role": "user", "content": text})
            answer, _ = self._answer(messages)
            messages.append({"role": "assistant", "content": answer})

    def _answer(self, messages: list[dict[str, str]]) -> tuple[str, Generation]:
        tokenizer = self._loaded.tokenizer
        if self._is_chat:
            prompt = tokenizer.chat_prompt([*self._system, *messages])
            prompt_ids = tokenizer.encode(prompt, add_special=False)
        else:
            prompt_ids = tokenizer.encode(messages[-1]["content"])
        self._num_turns += 1
        request = Request(
            request_id=RequestId(f"turn-{self._num_turns}"),
            prompt_ids=tuple(prompt_ids),
            max_tokens=self._max_tokens,
            sampling=self._sampling,
            stop_token_ids=tokenizer.eos_token_ids,
        )
        text = TextStream(tokenizer.detokenizer(prompt_ids), self._stops)
        choice = Choice(0, text, tokenizer.eos_token_ids)
        pieces: list[str] = []

        def take(output: TokenProduced) -> None:
            choice.add_token(output)
            if choice.stopped_by_text:
                self._loaded.engine.cancel(request.request_id)
            self._show(choice, pieces)

        def end(output: RequestFinished) -> None:
            choice.end(output)
            self._show(choice, pieces)

        (generation,) = generate(self._loaded.engine, [request], concurrency=1, on_token=take, on_end=end)
        generation.finish_reason = choice.finish_reason or generation.finish_reason
        del generation.token_ids[choice.num_tokens :], generation.token_times_s[choice.num_tokens :]
        if self._stream:
            print(flush=True)
        return "".join(pieces), generation

    def _show(self, choice: Choice, pieces: list[str]) -> None:
        """Print what a turn of the engine added to the answer, where it is streamed."""
        delta = choice.take_delta()
        if delta is None:
            return
        pieces.append(delta.text)
        if self._stream:
            print(delta.text, end="", flush=True)

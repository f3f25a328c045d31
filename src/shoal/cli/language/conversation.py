"""Turns of `shoal run`: the prompt in, the answer out as it comes, the figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.api.generation import LLM, RequestOutput
from shoal.api.sampling import SamplingOptions
from shoal.cli.shared.text_input import decoded
from shoal.cli.show.output import note, print_json
from shoal.config import user_path
from shoal.errors import ConfigError, InvalidRequest
from shoal.model.vision.pixels import decode_picture
from shoal.planner.files.plan_data import plan_dict
from shoal.vision.sources import read_source

_PICTURE_COMMAND = "/image"


class Conversation:
    """Turns of one conversation with a loaded model."""

    def __init__(
        self,
        llm: LLM,
        sampling: SamplingOptions,
        *,
        system: str | None = None,
        pictures: Sequence[Path] = (),
        stream: bool,
        raw: bool,
    ) -> None:
        """Raises ConfigError where there is a system message or a picture and the model takes none.

        Args:
            llm: the model.
            sampling: how an answer is drawn, and when it ends.
            system: the message before all others.
            pictures: files that go with the first message.
            stream: print answers as they come.
            raw: prompts are plain text, not turns of a conversation.
        """
        self._llm = llm
        self._sampling = sampling
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._stream = stream
        self._is_chat = llm.has_chat_template and not raw
        if system is not None and not self._is_chat:
            raise ConfigError("--system needs a chat template, which this model does not have")
        if pictures and not (self._is_chat and llm.takes_pictures):
            raise ConfigError("--image: this model accepts only texts")
        self._pictures = [_read_picture(path) for path in pictures]

    def answer_once(self, text: str, *, plan_s: float, load_s: float, as_json: bool) -> None:
        """One prompt, then the figures."""
        answer = self._answer([self._turn(text)])
        plan, usage = self._llm.plan, answer.usage
        decode_s = answer.duration_s - answer.ttft_s
        tokens_per_s = (usage.completion_tokens - 1) / decode_s if decode_s > 0 else 0.0
        if as_json:
            figures = {
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "ttft_s": answer.ttft_s,
                "tokens_per_s": tokens_per_s,
                "plan_s": plan_s,
                "load_s": load_s,
            }
            print_json({"model": plan.model, **figures, "plan": plan_dict(plan)})
        else:
            note(
                f"\n{usage.completion_tokens} tokens, {tokens_per_s:.1f} tokens/s, "
                f"time to first token {answer.ttft_s * 1e3:.0f} ms "
                f"({usage.prompt_tokens} prompt tokens), planned and measured in {plan_s:.1f} s, "
                f"loaded in {load_s:.1f} s"
            )
            predicted = plan.predicted
            if predicted is not None and predicted.streams == 1 and tokens_per_s:
                error = 1.0 / predicted.tpot_s / tokens_per_s - 1.0
                note(f"predicted {1.0 / predicted.tpot_s:.1f} tokens/s after the first token ({error:+.0%})")

    def converse(self) -> None:
        """Turn by turn until end of input."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                text = decoded(lambda: input("> " if sys.stdin.isatty() else ""))
            except EOFError:
                return
            if not text.strip():
                continue
            command, _, file = text.strip().partition(" ")
            if command == _PICTURE_COMMAND and self._is_chat:
                self._take_picture(file.strip())
                continue
            messages.append(self._turn(text))
            messages.append({"role": "assistant", "content": self._answer(messages).text})

    def _turn(self, text: str) -> dict[str, Any]:
        """What the user says, with the pictures that are to go with it."""
        shown, self._pictures = self._pictures, []
        parts = [{"type": "image", "image": picture} for picture in shown]
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}

    def _take_picture(self, file: str) -> None:
        """One that goes with the next message; what is wrong with it is told, and the conversation goes on."""
        if not self._llm.takes_pictures:
            note("this model accepts only texts")
            return
        try:
            self._pictures.append(_read_picture(user_path(file)))
        except InvalidRequest as error:
            note(str(error))
        else:
            note(f"{file} goes with the next message")

    def _answer(self, messages: list[dict[str, Any]]) -> RequestOutput:
        prompt = [*self._system, *messages] if self._is_chat else messages[-1]["content"]
        with self._llm.stream(prompt, **self._sampling) as deltas:
            for delta in deltas:
                if self._stream:
                    print(delta, end="", flush=True)
        if self._stream:
            print(flush=True)
        return deltas.output


def _read_picture(path: Path) -> bytes:
    """The content of a picture's file. Raises InvalidRequest: it is none, broken or too large."""
    content = read_source(path, allows_remote=False)
    assert isinstance(content, bytes)
    decode_picture(content, str(path))
    return content

"""Turns of `shoal run`: the prompt in, the answer out as it comes, the figures."""

from __future__ import annotations

import sys

from shoal.api.generation import LLM, RequestOutput
from shoal.api.sampling import SamplingOptions
from shoal.cli.shared.text_input import decoded
from shoal.cli.show.output import note, print_json
from shoal.errors import ConfigError
from shoal.planner.files.plan_data import plan_dict


class Conversation:
    """Turns of one conversation with a loaded model."""

    def __init__(
        self, llm: LLM, sampling: SamplingOptions, *, system: str | None = None, stream: bool, raw: bool
    ) -> None:
        """Raises ConfigError where there is a system message and no chat template.

        Args:
            llm: the model.
            sampling: how an answer is drawn, and when it ends.
            system: the message before all others.
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

    def answer_once(self, text: str, *, plan_s: float, load_s: float, as_json: bool) -> None:
        """One prompt, then the figures."""
        answer = self._answer([{"role": "user", "content": text}])
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
        messages: list[dict[str, str]] = []
        while True:
            try:
                text = decoded(lambda: input("> " if sys.stdin.isatty() else ""))
            except EOFError:
                return
            if not text.strip():
                continue
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": self._answer(messages).text})

    def _answer(self, messages: list[dict[str, str]]) -> RequestOutput:
        prompt = [*self._system, *messages] if self._is_chat else messages[-1]["content"]
        with self._llm.stream(prompt, **self._sampling) as deltas:
            for delta in deltas:
                if self._stream:
                    print(delta, end="", flush=True)
        if self._stream:
            print(flush=True)
        return deltas.output

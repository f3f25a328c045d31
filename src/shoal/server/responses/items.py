"""The output items of a response, which open and close as the parts of an answer arrive."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning
from shoal.server.responses.tools import chat_call

Emit = Callable[[str, dict[str, Any]], None]
"""Called with the type of an event, without `response.`, and its fields."""


class OutputItems:
    """Builds the items from an answer's parts. `output` has the items so far, of which the open one is incomplete."""

    def __init__(self, emit: Emit, num_id_chars: int, known_names: Mapping[str, Mapping[str, str]]) -> None:
        """`known_names`: see `tools.known_names`."""
        self.output: list[dict[str, Any]] = []
        self._emit = emit
        self._num_id_chars = num_id_chars
        self._known_names = known_names
        self._is_open = False

    def add(self, parts: Sequence[AnswerPart]) -> None:
        """Add further parts of the answer."""
        for part in parts:
            match part:
                case Content(text):
                    self._need("message")
                    self._append(text, "output_text", "output_text.delta")
                case Reasoning(text):
                    self._need("reasoning")
                    self._append(text, "reasoning_text", "reasoning_text.delta")
                case CallStarted(_, name):
                    self.close()
                    call_id = f"call_{uuid.uuid4().hex[: self._num_id_chars]}"
                    known = self._known_names.get(name, {"name": name})
                    fields = {"call_id": call_id, **known, "arguments": ""}
                    self._open({"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", **fields})
                case CallArguments(_, text):
                    self.output[-1]["arguments"] += text
                    self._emit("function_call_arguments.delta", {**self._place(), "delta": text})

    def close(self, status: str = "completed") -> None:
        """The open item is complete."""
        if not self._is_open:
            return
        self._is_open = False
        item = self.output[-1]
        item["status"] = status
        if item["type"] == "function_call":
            self._emit("function_call_arguments.done", {**self._place(), "arguments": item["arguments"]})
        else:
            (part,) = item["content"]
            place = {**self._place(), "content_index": 0}
            self._emit(f"{part['type']}.done", {**place, "text": part["text"], **_logprobs(part["type"])})
            self._emit("content_part.done", {**place, "part": part})
        self._emit("output_item.done", {"output_index": len(self.output) - 1, "item": item})

    def _need(self, kind: str) -> None:
        if self._is_open and self.output[-1]["type"] == kind:
            return
        self.close()
        if kind == "message":
            self._open({"id": f"msg_{uuid.uuid4().hex}", "type": kind, "role": "assistant", "content": []})
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            self._open({"id": f"rs_{uuid.uuid4().hex}", "type": kind, "summary": [], "content": []})
            part = {"type": "reasoning_text", "text": ""}
        self._emit("content_part.added", {**self._place(), "content_index": 0, "part": {**part}})
        self.output[-1]["content"].append(part)

    def _open(self, item: dict[str, Any]) -> None:
        self._is_open = True
        self.output.append({**item, "status": "in_progress"})
        shown = {**self.output[-1]}
        self._emit("output_item.added", {"output_index": len(self.output) - 1, "item": shown})

    def _append(self, text: str, kind: str, event: str) -> None:
        self.output[-1]["content"][0]["text"] += text
        self._emit(event, {**self._place(), "content_index": 0, "delta": text, **_logprobs(kind)})

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}


def _logprobs(kind: str) -> dict[str, Any]:
    """A field that events of visible text must have."""
    return {"logprobs": []} if kind == "output_text" else {}


def answer_message(output: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The items of an answer as a chat message."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for item in output:
        match item["type"]:
            case "message":
                message["content"] += item["content"][0]["text"]
            case "reasoning":
                message["reasoning_content"] = item["content"][0]["text"]
            case _:
                call = chat_call(item["call_id"], item.get("namespace"), item["name"], item["arguments"])
                message.setdefault("tool_calls", []).append(call)
    return message

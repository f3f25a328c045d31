"""Tools for models whose chat templates ignore tools: they are described in the first message, in Hermes' format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

_DESCRIPTION = """\
These functions can be called, each described by a line of JSON:
<tools>
{tools}
</tools>
To call one, answer with an object that holds its name and its arguments, between these tags and with nothing behind:
<tool_call>
{{"name": "NAME", "arguments": {{"PARAMETER": "VALUE"}}}}
</tool_call>
What it returns comes back between <tool_response> and </tool_response>."""


def with_described_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The same conversation with tools described in its system message."""
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    description = _DESCRIPTION.format(tools=lines)
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{description}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": description}, *messages]


def without_calls(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with calls and their results as text, for templates that would leave them out."""
    return [_as_text(message) for message in messages]


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if calls := message.get("tool_calls"):
        texts = [f"<tool_call>\n{_call_text(call['function'])}\n</tool_call>" for call in calls]
        return {"role": message["role"], "content": "\n".join(filter(None, [message.get("content"), *texts]))}
    return message


def _call_text(function: Mapping[str, Any]) -> str:
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)

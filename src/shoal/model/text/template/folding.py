"""Conversations in the stricter forms that some chat templates demand.

Clients send instructions in the middle of a conversation, several of them in a row, turns of one side that follow each
other, and calls that another model's server named. Templates like those of Mistral and Gemma refuse that: roles must
alternate, some know no system role, names of calls have nine characters, or arguments are to be JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

Message = Mapping[str, Any]
_CALL_ID = "call{:05d}"
"""Nine characters. Source: chat templates of Mistral Nemo and Mistral Small."""


def stricter_forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The same conversation in other forms, to be tried one after the other by a template that refuses it as it is.

    Each has at most one system message, which comes first, or none: its text then begins the user's first message. What
    follows from one side is one message. Calls are as they were, or have other names, or arguments as text.
    """
    tried = [[*messages]]
    for changed in (tried[0], _renamed_calls(messages), _text_arguments(messages)):
        for form in _ordered(changed):
            if form not in tried:
                tried.append(form)
                yield form


def _ordered(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """One system message, then turns of one side as one message; the same without a system message, if there is one."""
    leading = [*takewhile(_is_system, messages)]
    others = [{**one, "role": "user"} if _is_system(one) else one for one in messages[len(leading) :]]
    system = _joined(leading)
    yield [*system, *_joined(others)]
    if system:
        yield _joined([{**system[0], "role": "user"}, *others])


def _is_system(message: Message) -> bool:
    return message.get("role") == "system"


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message; those with calls, and results of calls, stay what they are."""
    joined: list[Message] = []
    for message in messages:
        if joined and _is_plain(joined[-1]) and _is_plain(message) and joined[-1]["role"] == message["role"]:
            joined[-1] = {**joined[-1], "content": _both(joined[-1]["content"], message["content"])}
        else:
            joined.append(message)
    return joined


def _is_plain(message: Message) -> bool:
    return message.keys() == {"role", "content"}


def _both(first: Any, second: Any) -> Any:
    """Two contents as one: texts, or parts of which some are pictures."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else [*(content or ())]


def _renamed_calls(messages: Sequence[Message]) -> list[Message]:
    """The same with names of calls that every template takes."""
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        return names.setdefault(name, _CALL_ID.format(len(names)))

    changed: list[Message] = []
    for message in messages:
        calls = [{**call, "id": renamed(call.get("id", ""))} for call in message.get("tool_calls", ())]
        result = {"tool_call_id": renamed(message["tool_call_id"])} if "tool_call_id" in message else {}
        changed.append({**message, **({"tool_calls": calls} if calls else {}), **result})
    return changed


def _text_arguments(messages: Sequence[Message]) -> list[Message]:
    """The same with arguments as JSON text."""
    return [
        {**message, "tool_calls": [_text_call(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _text_call(call: Message) -> Message:
    function, arguments = call["function"], call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}

"""Random changes to the fields of a protocol buffer, so that it still parses."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTEGERS = (0, 1, -1, 2, 7, 8, 64, 127, 999, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_STRINGS = (
    "",
    "x",
    "\x00",
    "../w.data",
    "/dev/zero",
    "MatMul",
    "If",
    "Loop",
    "com.microsoft",
    "9" * 30,
    "N",
    "x" * 5000,
)
_MESSAGE = FieldDescriptor.TYPE_MESSAGE


def mutate_message(data: bytes, kind: type[Message], source: random.Random) -> bytes:
    """The message after one to three changes."""
    message = kind.FromString(data)
    for _ in range(source.choice((1, 1, 2, 3))):
        _change(source.choice(list(_messages(message))), source)
    return message.SerializeToString()


def _messages(message: Message) -> Any:
    """The message and all within it."""
    stack = [message]
    while stack:
        one = stack.pop()
        yield one
        for descriptor, value in one.ListFields():
            if descriptor.type == _MESSAGE:
                stack.extend(value if descriptor.is_repeated else [value])


def _change(message: Any, source: random.Random) -> None:
    descriptor = source.choice(message.DESCRIPTOR.fields)
    name = descriptor.name
    if descriptor.is_repeated:
        _change_items(getattr(message, name), descriptor, source)
    elif descriptor.type == _MESSAGE:
        if source.random() < 0.5:
            message.ClearField(name)
        else:
            getattr(message, name).SetInParent()
    elif source.random() < 0.2:
        message.ClearField(name)
    else:
        _set(lambda value: setattr(message, name, value), descriptor, source)


def _change_items(items: Any, descriptor: Any, source: random.Random) -> None:
    count = len(items)
    if count and source.random() < 0.4:
        del items[source.randrange(count)]
    elif descriptor.type == _MESSAGE:
        made = items.add()
        if count and source.random() < 0.7:
            made.CopyFrom(items[source.randrange(count)])
    else:
        _set(items.append, descriptor, source)


def _set(put: Any, descriptor: Any, source: random.Random) -> None:
    """Values that the field cannot hold are left out."""
    match descriptor.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if descriptor.type == FieldDescriptor.TYPE_BYTES:
            value: Any = source.choice((b"", b"\x00" * 4, b"\xff" * 64, b"x" * 1000))
        case FieldDescriptor.CPPTYPE_STRING:
            value = source.choice(_STRINGS)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            value = source.choice((0.0, -1.0, 1e30, float("inf"), float("nan")))
        case _:
            value = source.choice(_INTEGERS)
    try:
        put(value)
    except (ValueError, TypeError, OverflowError):
        return

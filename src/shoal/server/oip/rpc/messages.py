"""Message classes built from the schema, in a descriptor pool of their own.

The process-wide pool refuses a second definition, and a program may also use Triton's client.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError, Message

from shoal.errors import InvalidRequest
from shoal.server.oip.rpc.schema import ENUMS, MESSAGES, PACKAGE

_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
}


class Messages:
    """The classes of all messages by name."""

    def __init__(self) -> None:
        pool = descriptor_pool.DescriptorPool()
        pool.Add(_file())
        self._classes = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES
        }

    def __getitem__(self, name: str) -> type[Message]:
        """The class of one message."""
        return self._classes[name]

    def new(self, name: str, /, **fields: Any) -> Any:
        """A message; nested ones may be given as dictionaries."""
        return self._classes[name](**fields)

    def parsed(self, name: str, data: bytes) -> Any:
        """A message from its bytes. Raises InvalidRequest."""
        try:
            return self._classes[name].FromString(data)
        except DecodeError as error:
            raise InvalidRequest(f"the message is not a {name}: {error}") from error


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="shoal/grpc_inference_service.proto", package=PACKAGE, syntax="proto3")
    by_name: dict[str, DescriptorProto] = {}
    for name in sorted(MESSAGES, key=lambda name: name.count(".")):
        outer, _, inner = name.rpartition(".")
        siblings = by_name[outer].nested_type if outer else file.message_type
        by_name[name] = siblings.add(name=inner)
    for name, fields in MESSAGES.items():
        for field in fields:
            _add_field(by_name[name], name, field)
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    return file


def _add_field(message: DescriptorProto, message_name: str, text: str) -> None:
    definition, _, oneof = text.partition(" |")
    number, name, kind = definition.split()
    is_map, is_repeated = kind.endswith("{}"), kind.endswith("*")
    kind = kind.removesuffix("{}").removesuffix("*")
    field = message.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
    if is_map:
        kind = _add_map_entry(message, message_name, name, kind)
    if is_map or is_repeated:
        field.label = FieldDescriptorProto.LABEL_REPEATED
    _set_type(field, kind)
    if oneof:
        field.oneof_index = _oneof_index(message, oneof)


def _set_type(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = FieldDescriptorProto.TYPE_ENUM if kind in ENUMS else FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{kind}"


def _add_map_entry(message: DescriptorProto, message_name: str, field_name: str, value_kind: str) -> str:
    """A map is a repeated message of keys and values. Source: Protocol Buffers, "Maps", backwards compatibility."""
    entry_name = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", "string"), ("value", value_kind)), start=1):
        _set_type(entry.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL), kind)
    return f"{message_name}.{entry_name}"


def _oneof_index(message: DescriptorProto, name: str) -> int:
    names = [oneof.name for oneof in message.oneof_decl]
    if name not in names:
        message.oneof_decl.add(name=name)
        return len(names)
    return names.index(name)

"""A chain's request: files in a form, a file by itself, or an inference request in JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import msgspec
import numpy as np
from starlette.datastructures import Headers

from shoal.arrays import Array
from shoal.chains.definition import Chain
from shoal.chains.steps import InputKind
from shoal.chains.values import input_of_file, plain_data
from shoal.errors import InvalidRequest
from shoal.server.bodies.forms import read_form
from shoal.server.oip.inference import InferCall
from shoal.server.oip.rest.infer_body import ParsedBody, parse_body

_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")
"""The last is what `curl -d` says of whatever it sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRequest:
    """What a client asks of a chain."""

    given: Mapping[str, Any]
    """inputs: files as bytes, texts as strings, tensors as arrays"""
    form: ParsedBody
    """how the outputs are to be written"""


async def read_request(chain: Chain, headers: Headers, body: bytes, json_size: int | None) -> ChainRequest:
    """A request by its content type. Raises InvalidRequest, MissingExtra."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if json_size is not None or content_type in _JSON_TYPES:
        return _from_json(chain, body, json_size)
    if content_type == "multipart/form-data":
        return ChainRequest(given=await _from_form(chain, headers, body), form=_plain(chain))
    if len(chain.inputs) > 1:
        names = ", ".join(map(repr, chain.inputs))
        raise InvalidRequest(f"{chain.name!r} has several inputs, {names}: send a form (multipart/form-data) or JSON")
    (name,) = chain.inputs
    return ChainRequest(given={name: input_of_file(chain.inputs[name], name, body)}, form=_plain(chain))


def _from_json(chain: Chain, body: bytes, json_size: int | None) -> ChainRequest:
    parsed = parse_body(body, json_size, model_name=chain.name, model_version="")
    for name in parsed.call.outputs:
        if name not in chain.outputs:
            known = ", ".join(map(repr, chain.outputs))
            raise InvalidRequest(f"{chain.name!r} has no output {name!r}: it has {known}")
    given = {name: _of_tensor(chain.inputs.get(name), name, array) for name, array in parsed.call.inputs.items()}
    return ChainRequest(given=given, form=parsed)


def _of_tensor(kind: InputKind | None, name: str, array: Array) -> Any:
    """An input out of a tensor: a file is a string (a data URL, or base64) or its bytes as UINT8."""
    if kind is None or kind is InputKind.TENSOR:
        return array
    if kind is InputKind.TEXTS:
        if array.dtype != object:
            raise InvalidRequest(f"input {name!r} is strings (BYTES)", name)
        return [str(text) for text in array.reshape(-1).tolist()]
    if kind is not InputKind.TEXT and array.dtype == np.uint8:
        return array.tobytes()
    if array.dtype != object or array.size != 1:
        wanted = "one string (BYTES)" if kind is InputKind.TEXT else "one string (BYTES), or the file's bytes as UINT8"
        raise InvalidRequest(f"input {name!r} is {wanted}", name)
    text = cast(str, array.reshape(-1)[0])
    return text if kind is InputKind.TEXT else _of_text(name, text)


def _of_text(name: str, text: str) -> bytes:
    """A file out of a data URL (RFC 2397) or base64."""
    is_base64 = True
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma:
            raise InvalidRequest(f"input {name!r}: a data URL has a comma before its data", name)
        is_base64 = head.endswith(";base64")
    elif text.startswith(("http://", "https://")):
        raise InvalidRequest(f"input {name!r}: nothing is fetched from other servers; send the file itself", name)
    if not is_base64:
        return unquote_to_bytes(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"input {name!r} is neither a data URL nor base64: {error}", name) from None


async def _from_form(chain: Chain, headers: Headers, body: bytes) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, part in await read_form(headers, body, "chains"):
        if name in given:
            raise InvalidRequest(f"input {name!r} is given twice", name)
        content = part.encode() if isinstance(part, str) else part
        given[name] = input_of_file(chain.inputs.get(name), name, content)
    return given


def _plain(chain: Chain) -> ParsedBody:
    """Every output as JSON."""
    call = InferCall(
        model_name=chain.name, model_version="", request_id="", inputs={}, outputs=chain.outputs, timeout_s=None
    )
    return ParsedBody(call=call, binary_outputs=frozenset(), is_binary_default=False)


def as_array(name: str, value: Any) -> Array:
    """An output as a tensor: arrays, numbers, strings and even lists of them as they are, anything else as JSON."""
    if isinstance(value, np.ndarray):
        return cast(Array, value)
    if isinstance(value, str):
        return np.array([value], dtype=object)
    if isinstance(value, list) and all(isinstance(item, str) for item in cast(list[object], value)):
        return np.array(value, dtype=object)
    if isinstance(value, bool | int | float):
        return np.asarray([value])
    plain = plain_data(value)
    try:
        array: Array = np.asarray(plain)
        if array.dtype.kind in "biuf":
            return array
    except ValueError:
        pass  # lists of different lengths
    return np.array([msgspec.json.encode(plain).decode()], dtype=object)

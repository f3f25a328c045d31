"""A chain's request: files in a form, a single file, or an inference request in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from shoal.chains.definition import Chain
from shoal.chains.values import input_of_file
from shoal.errors import InvalidRequest
from shoal.server.bodies.forms import read_form
from shoal.server.oip.chains.calls import inputs_of
from shoal.server.oip.inference import InferCall
from shoal.server.oip.rest.infer_body import ParsedBody, parse_body

_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")
"""The last one is what `curl -d` declares for any content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRequest:
    """A client's request to a chain."""

    given: Mapping[str, Any]
    """Inputs: files as bytes, texts as strings, tensors as arrays."""
    form: ParsedBody
    """The format of the outputs."""


async def read_request(chain: Chain, headers: Headers, body: bytes, json_size: int | None) -> ChainRequest:
    """Read a request according to its content type. Raises InvalidRequest, MissingExtra."""
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
    return ChainRequest(given=inputs_of(chain, parsed.call), form=parsed)


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

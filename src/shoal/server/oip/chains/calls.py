"""What both dialects do with a chain: convert inputs from tensors and outputs to tensors, and describe the chain."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import numpy as np

from shoal.arrays import Array
from shoal.chains.definition import Chain
from shoal.chains.steps import InputKind
from shoal.chains.values import json_of, plain_data
from shoal.errors import InvalidRequest, RequestError
from shoal.inference.served_chain import CHAIN_VERSION, ServedChain
from shoal.server.oip.datatypes import nameable
from shoal.server.oip.inference import InferAnswer, InferCall

PLATFORM = "shoal_chain"
_NS = 1_000_000_000


def inputs_of(chain: Chain, call: InferCall) -> dict[str, Any]:
    """The chain's inputs: files as bytes, texts as strings, tensors as arrays. Raises InvalidRequest."""
    for name in call.outputs:
        if name not in chain.outputs:
            known = ", ".join(map(repr, chain.outputs))
            raise InvalidRequest(f"{chain.name!r} has no output {name!r}: it has {known}")
    return {name: _of_tensor(chain.inputs.get(name), name, array) for name, array in call.inputs.items()}


def answer_of(chain: Chain, call: InferCall, outputs: Mapping[str, Any]) -> InferAnswer:
    """The outputs that were asked for. Raises RequestError if one cannot be written."""
    arrays = {name: _as_array(name, outputs[name]) for name in call.outputs or chain.outputs}
    return InferAnswer(model_name=chain.name, model_version=CHAIN_VERSION, request_id=call.request_id, outputs=arrays)


def chain_metadata(chain: Chain) -> dict[str, Any]:
    """The chain in the protocol's metadata: a file is a string, which is a data URL or base64."""
    return {
        "name": chain.name,
        "versions": [CHAIN_VERSION],
        "platform": PLATFORM,
        "inputs": [_described(name, kind) for name, kind in chain.inputs.items()],
        "outputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in chain.outputs],
    }


def chain_statistics(served: ServedChain) -> dict[str, Any]:
    """One element of `model_stats`. Source: Triton, "Statistics Extension"."""
    counts = served.counts
    failed = {"count": sum(counts.num_failed.values()), "ns": round(counts.failure_s * _NS)}
    succeeded = {"count": counts.num_succeeded, "ns": round(counts.success_s * _NS)}
    stats = {"name": served.chain.name, "version": CHAIN_VERSION, "inference_count": counts.num_succeeded}
    return {**stats, "inference_stats": {"success": succeeded, "fail": failed}}


def _described(name: str, kind: InputKind) -> dict[str, Any]:
    if kind is InputKind.TENSOR:
        return {"name": name, "datatype": "FP32", "shape": [-1]}
    shape = [-1 if kind is InputKind.TEXTS else 1]
    return {"name": name, "datatype": "BYTES", "shape": shape, "parameters": {"kind": str(kind)}}


def _of_tensor(kind: InputKind | None, name: str, array: Array) -> Any:
    """An input from a tensor: a file is a string (a data URL, or base64), or its bytes as UINT8."""
    if kind is None or kind is InputKind.TENSOR:
        return array
    if kind is InputKind.TEXTS:
        if array.dtype != object:
            raise InvalidRequest(f"input {name!r} must be strings (BYTES)", name)
        return [str(text) for text in array.reshape(-1).tolist()]
    if kind is not InputKind.TEXT and array.dtype == np.uint8:
        return array.tobytes()
    if array.dtype != object or array.size != 1:
        wanted = "one string (BYTES)" if kind is InputKind.TEXT else "one string (BYTES), or the file's bytes as UINT8"
        raise InvalidRequest(f"input {name!r} must be {wanted}", name)
    text = cast(str, array.reshape(-1)[0])
    return text if kind is InputKind.TEXT else _of_text(name, text)


def _of_text(name: str, text: str) -> bytes:
    """A file from a data URL (RFC 2397) or base64."""
    is_base64 = True
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma:
            raise InvalidRequest(f"input {name!r}: a data URL must have a comma before its data", name)
        is_base64 = head.endswith(";base64")
    elif text.startswith(("http://", "https://")):
        raise InvalidRequest(f"input {name!r}: nothing is fetched from other servers; send the file itself", name)
    if not is_base64:
        return unquote_to_bytes(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"input {name!r} is neither a data URL nor base64: {error}", name) from None


def _as_array(name: str, value: Any) -> Array:
    """An output as a tensor: arrays, numbers, strings and uniform lists of them as they are, anything else as JSON."""
    if isinstance(value, np.ndarray) and (array := nameable(cast(Array, value))) is not None:
        return array
    if isinstance(value, str):
        return _texts(name, [value])
    if isinstance(value, list) and all(isinstance(item, str) for item in cast(list[object], value)):
        return _texts(name, cast(list[str], value))
    with suppress(ValueError, RecursionError):  # lists of different lengths, or lists that contain themselves
        numbers: Array = np.asarray([value] if isinstance(value, bool | int | float) else plain_data(value))
        if numbers.dtype.kind in "biuf":
            return numbers
    return np.array([json_of(value, f"output {name!r}").decode()], dtype=object)


def _texts(name: str, texts: list[str]) -> Array:
    """Raises RequestError: half of a surrogate pair is not a character."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"output {name!r} has a text that is no Unicode: {error.reason}") from None
    return np.array(texts, dtype=object)

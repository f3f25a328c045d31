"""Raw requests that cost their sender little: the corpus of the tests of the event loop's lag.

To add one, give it a name in the dictionary of its server. Bodies stay below what the server takes.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable

MB = 1 << 20
_MAX_ANSWER_BYTES = 1 << 16
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_raw(url: str, request: bytes) -> bytes:
    """The begin of what the server at `http://HOST:PORT` answers until it closes. More would be copied by this process
    too, and count as the server's work."""
    host, _, port = url.partition("://")[2].rpartition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        try:
            sock.sendall(request)
            while piece := sock.recv(1 << 16):
                answer += piece[: _MAX_ANSWER_BYTES - len(answer)]
        except (BrokenPipeError, ConnectionResetError):
            pass
    return answer


def many(item: str, size_bytes: int) -> bytes:
    """A JSON list of equal items, as long as it may be."""
    return b"[" + b",".join([item.encode()] * (size_bytes // (len(item) + 1) - 1)) + b"]"


def with_extra(value: bytes) -> bytes:
    return b'{"prompt":"a","max_tokens":1,"nobody_knows":' + value + b"}"


TO_ANY: dict[str, Callable[[], bytes]] = {
    "headers without end": lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a: bcdefghijklmnop\r\n" * 500_000,
    "many headers": lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 16_000 + b"\r\n",
    "one long header": lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"a" * (16 * MB),
    "a long URL": lambda: b"GET /" + b"a" * (16 * MB),
    "a long trailer": lambda: (
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: " + b"a" * (16 * MB)
    ),
    "a long chunk extension": lambda: (
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * (16 * MB)
    ),
    "blank lines": lambda: b"\r\n" * (8 * MB),
    "pipelined": lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100_000,
    "tiny chunks": lambda: (
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\na\r\n" * 500_000
        + b"0\r\n\r\n"
    ),
    "a deep path": lambda: b"GET " + b"/a" * 30_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "an escaped path": lambda: (
        b"GET /" + b"%41" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ),
}
"""Whatever the server speaks."""

TO_OPENAI: dict[str, Callable[[], bytes]] = {
    "a long prompt": lambda: post(COMPLETIONS, b'{"prompt":"%s","max_tokens":1}' % (b"a" * (7 * MB))),
    "an escaped prompt": lambda: post(COMPLETIONS, b'{"prompt":"%s"}' % (b"\\u0041" * MB)),
    "many token ids": lambda: post(COMPLETIONS, b'{"prompt":' + many("1", 7 * MB) + b"}"),
    "many objects": lambda: post(COMPLETIONS, with_extra(many("{}", 7 * MB))),
    "many lists": lambda: post(COMPLETIONS, with_extra(many("[]", 7 * MB))),
    "many strings": lambda: post(COMPLETIONS, with_extra(many('""', 7 * MB))),
    "many keys": lambda: post(COMPLETIONS, b"{" + b",".join(b'"%x":1' % i for i in range(700_000)) + b"}"),
    "a deep body": lambda: post(COMPLETIONS, b"[" * (7 * MB)),
    "many brackets in a text": lambda: post(COMPLETIONS, b'{"prompt":"%s"}' % (b"[" * (7 * MB))),
    "a long number": lambda: post(COMPLETIONS, b'{"seed":' + b"1" * (7 * MB) + b"}"),
    "a gzip bomb": lambda: post(COMPLETIONS, zlib.compress(b" " * (128 * MB), wbits=31), "Content-Encoding: gzip"),
    "many messages": lambda: post(CHAT, b'{"messages":' + many('{"role":"user"}', 7 * MB) + b"}"),
    "many parts": lambda: post(
        CHAT, b'{"messages":[{"role":"user","content":' + many('{"type":"text","text":"a"}', 7 * MB) + b"}]}"
    ),
    "long stop strings": lambda: post(
        COMPLETIONS,
        b'{"prompt":"a","n":8,"stop":[%s]}' % b",".join(b'"%x%s"' % (i, b"a" * 400_000) for i in range(16)),
    ),
    "many stop ids": lambda: post(
        COMPLETIONS, b'{"prompt":"a","n":64,"stop_token_ids":[%s]}' % b",".join(b"%d" % i for i in range(600_000))
    ),
    "a long model name": lambda: post(COMPLETIONS, b'{"prompt":"a","model":"%s"}' % (b"a" * (7 * MB))),
}
"""To the OpenAI API."""

DOUBLE = "/v2/models/doubler/infer"


def _inputs(*inputs: bytes) -> bytes:
    return b'{"inputs":[' + b",".join(inputs) + b"]}"


def _tensor(name: str, datatype: str, shape: bytes, data: bytes) -> bytes:
    return b'{"name":"%b","datatype":"%b","shape":%b,"data":%b}' % (name.encode(), datatype.encode(), shape, data)


def _binary(model: str, datatype: str, shape: str, raw: bytes) -> bytes:
    parameters = f'"parameters":{{"binary_data_size":{len(raw)}}}'
    value = f'{{"name":"value","datatype":"{datatype}","shape":{shape},{parameters}}}'
    head = f'{{"inputs":[{value}],"parameters":{{"binary_data_output":true}}}}'.encode()
    return post(f"/v2/models/{model}/infer", head + raw, f"Inference-Header-Content-Length: {len(head)}")


TO_GRAPHS: dict[str, Callable[[], bytes]] = {
    "many integers": lambda: post(DOUBLE, _inputs(_tensor("x", "FP32", b"[475000,4]", many("1", 3_800_000)))),
    "many floats": lambda: post(
        "/v2/models/echo_float32/infer",
        _inputs(_tensor("value", "FP32", b"[1048576]", b"[" + b"0.123456789,0.9," * 524_287 + b"1,1]")),
    ),
    "many lists": lambda: post(DOUBLE, _inputs(_tensor("x", "FP32", b"[1,4]", many("[]", 15 * MB)))),
    "some lists": lambda: post(DOUBLE, _inputs(_tensor("x", "FP32", b"[1,4]", many("[]", 50_000)))),
    "many inputs": lambda: post(DOUBLE, _inputs(*[b'{"name":"x","datatype":"FP32","shape":[1],"data":[1]}'] * 19_000)),
    "a long shape": lambda: post(DOUBLE, _inputs(_tensor("x", "FP32", many("1", 3 * MB), b"[1]"))),
    "a long name": lambda: post(DOUBLE, _inputs(_tensor("x" * (15 * MB), "FP32", b"[1]", b"[1]"))),
    "much space": lambda: post(DOUBLE, _inputs(b" " * (7 * MB) + _tensor("x", "FP32", b"[1]", b"[1]"))),
    "a deep body": lambda: post(DOUBLE, b"[" * (7 * MB)),
    "many strings": lambda: post(
        "/v2/models/echo_string/infer", _inputs(_tensor("value", "BYTES", b"[65000]", many('"a"', 260_000)))
    ),
    "a shape of many strings": lambda: _binary("echo_string", "BYTES", "[2000000000]", b"\0" * 4),
    "many empty strings": lambda: _binary("echo_string", "BYTES", "[15000000]", b"\0" * 60_000_000),
    "strings": lambda: _binary("echo_string", "BYTES", "[65536]", b"\1\0\0\0a" * 65_536),
    "a large tensor": lambda: _binary("echo_uint8", "UINT8", f"[{60 * MB}]", bytes(60 * MB)),
    "a gzip bomb": lambda: post(DOUBLE, zlib.compress(b" " * (128 * MB), wbits=31), "Content-Encoding: gzip"),
    "packed space": lambda: post(DOUBLE, zlib.compress(b" " * (60 * MB), wbits=31), "Content-Encoding: gzip"),
    "NaN": lambda: post(DOUBLE, _inputs(_tensor("x", "FP32", b"[1]", b"[NaN" + b",NaN" * (4 * MB) + b"]"))),
    "a long id": lambda: post(DOUBLE, b'{"id":"%b","inputs":[]}' % (b"a" * (15 * MB))),
    "many fields": lambda: post(DOUBLE, b'{"inputs":[],' + b",".join(b'"%x":1' % i for i in range(19_000)) + b"}"),
}
"""To the Open Inference Protocol."""


def _field(number: int, value: bytes) -> bytes:
    """Source: Protocol Buffers, "Encoding", length-delimited records."""
    size, head = len(value), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + value


def _message(model: str, *parts: bytes) -> bytes:
    return _field(1, model.encode()) + b"".join(parts)


def _value(datatype: bytes, num_elements: int, contents: bytes = b"") -> bytes:
    return _field(5, _field(1, b"value") + _field(2, datatype) + _field(3, _varint(num_elements)) + contents)


def _varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + _varint(value >> 7) if value > 0x7F else bytes([value])


TO_GRPC: dict[str, Callable[[], bytes]] = {
    "a large tensor": lambda: _message("echo_uint8", _value(b"UINT8", 15 * MB), _field(7, bytes(15 * MB))),
    "many booleans": lambda: _message("echo_bool", _value(b"BOOL", 15 * MB), _field(7, b"\2" * (15 * MB))),
    "typed numbers": lambda: _message("echo_int8", _value(b"INT8", MB - 8, _field(5, _field(2, b"\1" * (MB - 8))))),
    "typed strings": lambda: _message(
        "echo_string", _value(b"BYTES", MB // 2 - 8, _field(5, _field(8, b"") * (MB // 2 - 8)))
    ),
    "many raw tensors": lambda: _message("echo_uint8", _field(7, b"") * (7 * MB)),
    "many inputs": lambda: _message("echo_uint8", _field(5, b"") * (7 * MB)),
    "many parameters": lambda: _message("echo_uint8", _field(4, _field(1, b"a")) * 4_000),
    "a long name": lambda: _message("a" * (15 * MB)),
    "fields that nobody knows": lambda: _message("echo_uint8", _field(15, bytes(3 * MB))),
    "many groups": lambda: b"\x7b" * (15 * MB),
    "an empty message": lambda: b"",
}
"""Messages to ModelInfer over gRPC."""

"""Where a request's picture comes from: the request itself or, if allowed, another server."""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from shoal.errors import InvalidRequest
from shoal.model.vision.pixels import OpenPicture, PictureSource

MAX_PICTURE_BYTES = 32 << 20
"""Largest picture file: three times what cameras write."""
_FETCH_TIMEOUT_S = 10.0
"""Time between two pieces of an answer. A judgment, as somebody is waiting."""
_MOST_FETCH_S = 60.0
"""Time for the whole picture, even if pieces keep coming: 32 MB at 0.5 MB/s."""
_DATA = re.compile(
    r"data:(?:image/[\w.+-]{1,40})?(?:;[\w-]{1,20}=[\w.+-]{1,40}){0,4};base64,", re.ASCII | re.IGNORECASE
)


def read_source(source: PictureSource, *, allows_remote: bool) -> bytes | OpenPicture:
    """A picture's file, or an image that Pillow has opened. Fetching one may take seconds.

    Args:
        source: a text is a URL, `data:image/...;base64,...` or http(s), never a path.
        allows_remote: whether pictures may be fetched.

    Raises:
        InvalidRequest: the URL is of another kind or not base64, or the picture is too large or cannot be fetched.
    """
    if isinstance(source, str):
        return _read_url(source, allows_remote=allows_remote)
    if isinstance(source, Path):
        return _read_file(source)
    if isinstance(source, bytes) and len(source) > MAX_PICTURE_BYTES:
        raise _too_large()
    return source


def _read_url(url: str, *, allows_remote: bool) -> bytes:
    if url[:5].lower() == "data:":
        return _decode_data(url)
    scheme = url.partition(":")[0].lower()[:20]
    if scheme not in ("http", "https"):
        raise _refused("a picture's URL must begin with `data:image/...;base64,`, or http(s) where that is allowed")
    if not allows_remote:
        raise _refused("pictures are not fetched from other servers here: send a data URL (--allow-remote-media)")
    return _fetch(url)


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise _refused(f"{path} is no file")
        with path.open("rb") as file:
            content = file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise _refused(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_PICTURE_BYTES:
        raise _too_large()
    return content


def _decode_data(url: str) -> bytes:
    head = _DATA.match(url)
    if head is None:
        raise _refused("a data URL of a picture must begin with `data:image/...;base64,`")
    if (len(url) - head.end()) * 3 // 4 > MAX_PICTURE_BYTES:
        raise _too_large()
    try:
        return base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _refused("a picture's data URL holds no valid base64") from None


def _fetch(url: str) -> bytes:
    """Fetch over HTTP(S) only, redirects included."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=_FETCH_TIMEOUT_S) as answer:
            content = _read(answer)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _refused(f"a picture cannot be fetched: {error!s:.200}") from None
    if len(content) > MAX_PICTURE_BYTES:
        raise _too_large()
    return bytes(content)


def _read(answer: http.client.HTTPResponse) -> bytearray:
    """The whole answer, or one byte more than a picture may have. Raises OSError."""
    content, end_s = bytearray(), time.monotonic() + _MOST_FETCH_S
    while len(content) <= MAX_PICTURE_BYTES and (piece := answer.read1(1 << 16)):
        content += piece
        if time.monotonic() > end_s:
            raise TimeoutError(f"it takes more than {_MOST_FETCH_S:.0f} s")
    return content


def _too_large() -> InvalidRequest:
    return _refused(f"a picture's file has more than {MAX_PICTURE_BYTES >> 20} MB")


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="messages")

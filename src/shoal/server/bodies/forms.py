"""Forms with files (multipart/form-data, RFC 7578), from bodies that are already bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from shoal.errors import InvalidRequest, MissingExtra

MAX_PARTS = 64
"""Most parts of a form."""
MAX_FIELD_BYTES = 1000
"""Largest part that is searched for alone."""
_STRIDE_BYTES = 1 << 16
"""Bytes of a form that are passed to the parser at once."""


def form_field(content_type: str, body: bytes | bytearray | memoryview, name: str, extra: str) -> str | None:
    """The text of the first part with a name; None: there is none. Other parts are skipped without being copied.

    Args:
        content_type: of the form.
        body: of the form.
        name: of the part.
        extra: that installs the parser.

    Raises:
        InvalidRequest: the body is not a form, or the part is longer than MAX_FIELD_BYTES.
        MissingExtra: python-multipart is not installed.
    """
    try:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header
    except ModuleNotFoundError:
        raise MissingExtra("forms need python-multipart", extra) from None
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("not a form: it has no boundary")
    search = _FieldSearch(name)
    try:
        parser = MultipartParser(boundary, search.callbacks())  # pyright: ignore[reportArgumentType]
        for start in range(0, len(body), _STRIDE_BYTES):
            parser.write(bytes(memoryview(body)[start : start + _STRIDE_BYTES]))
            if search.is_done:
                break
    except FormParserError as error:
        raise InvalidRequest(f"not a form: {str(error)[:200]}") from None
    return None if search.value is None else search.value.decode("utf-8", "replace")


class _FieldSearch:
    """Receives a parser's events until one part is complete."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._header = self._header_value = b""
        self._is_it = False
        self.value: bytes | None = None
        self.is_done = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Callbacks for the parser."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_header_field": self._name_header,
            "on_header_value": self._take_header,
            "on_header_end": self._end_header,
        }

    def _begin(self) -> None:
        self._header = self._header_value = b""
        self._is_it = False

    def _name_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._header.lower() == b"content-disposition" and not self.is_done:
            self._is_it = parse_options_header(self._header_value)[1].get(b"name") == self._name
            self.value = b"" if self._is_it else self.value
        self._header = self._header_value = b""

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_it and self.value is not None:
            self.value += data[start:end]
            if len(self.value) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"`{self._name.decode()}` is longer than {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        self.is_done = self.is_done or self._is_it
        self._is_it = False


async def read_form(headers: Headers, body: bytes | bytearray, extra: str) -> list[tuple[str, str | bytes]]:
    """The parts in order: texts as strings, files as bytes.

    Args:
        headers: of the request.
        body: of the request.
        extra: that installs the parser.

    Raises:
        InvalidRequest: the body is not a form, or has too many parts.
        MissingExtra: python-multipart is not installed.
    """
    try:
        import python_multipart as _  # noqa: F401  Starlette's parser stands on it
    except ModuleNotFoundError:
        raise MissingExtra("forms need python-multipart", extra) from None

    async def stream() -> AsyncGenerator[bytes, None]:
        yield bytes(body)

    limits = {"max_files": MAX_PARTS, "max_fields": MAX_PARTS, "max_part_size": len(body)}
    try:
        form: FormData = await MultiPartParser(headers, stream(), **limits).parse()
    except (MultiPartException, KeyError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise InvalidRequest(f"not a form: {reason}") from None
    try:
        return [
            (name, await part.read() if isinstance(part, UploadFile) else part) for name, part in form.multi_items()
        ]
    finally:
        await form.close()

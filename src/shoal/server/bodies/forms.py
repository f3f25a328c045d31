"""Forms with files (multipart/form-data, RFC 7578), out of bodies that are bounded already."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from shoal.errors import InvalidRequest, MissingExtra

MAX_PARTS = 64
"""of a form"""


async def read_form(headers: Headers, body: bytes | bytearray, extra: str) -> list[tuple[str, str | bytes]]:
    """The parts in order: texts as strings, files as bytes.

    Args:
        headers: of the request.
        body: all of it.
        extra: that installs what is needed.

    Raises:
        InvalidRequest: it is no form, or has too many parts.
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

"""Arrays of strings: the native form says what the Python one does, of sound and of damaged bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.gguf.strings import read_in_python, read_strings, skip_in_python, skip_strings

ANY_BYTES = st.binary(max_size=20)


def stored(strings: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(one)) + one for one in strings)


@given(before=ANY_BYTES, strings=st.lists(ANY_BYTES, max_size=9), after=ANY_BYTES)
def test_strings_of_any_bytes(before: bytes, strings: list[bytes], after: bytes) -> None:
    data, start = before + stored(strings) + after, len(before)
    expected = [one.decode("utf-8", errors="replace") for one in strings]
    for read, skip in ((read_strings, skip_strings), (read_in_python, skip_in_python)):
        assert read(data, start, len(strings)) == expected
        assert skip(data, start, len(strings)) == len(data) - len(after)


@pytest.mark.skipif(not native_available(), reason="the native extension is not built")
@given(st.data())
def test_nothing_behind_the_end_is_read(data: st.DataObject) -> None:
    strings = data.draw(st.lists(ANY_BYTES, min_size=1, max_size=4))
    whole = stored(strings)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for read in (read_strings, skip_strings, read_in_python, skip_in_python):
        with pytest.raises((ValueError, struct.error)):
            read(cut, 0, len(strings))


@pytest.mark.parametrize("length", [9, 1 << 31, (1 << 63) - 1, (1 << 64) - 9, (1 << 64) - 1])
@pytest.mark.parametrize("read", [read_strings, skip_strings, read_in_python, skip_in_python])
def test_a_length_beyond_the_data(read, length: int) -> None:
    with pytest.raises((ValueError, struct.error, OverflowError)):
        read(struct.pack("<Q", length) + b"eight by", 0, 1)

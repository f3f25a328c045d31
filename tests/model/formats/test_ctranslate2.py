"""Damaged and foreign files in CTranslate2's form are one line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_whisper import make_tiny_whisper, write_ctranslate2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("ct2")
    return write_ctranslate2(make_tiny_whisper(parent / "hf"), parent / "ct2")


def damaged(folder: Path, out: Path, data: bytes) -> Path:
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    (out / "model.bin").write_bytes(data)
    return out


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3, 0.9])
def test_a_file_that_was_cut_off(folder: Path, tmp_path: Path, share: float) -> None:
    data = (folder / "model.bin").read_bytes()
    with pytest.raises(ModelLoadError):
        open_weights(damaged(folder, tmp_path / "cut", data[: int(share * len(data))]))


def test_whatever_byte_of_the_first_header_is_another(folder: Path, tmp_path: Path) -> None:
    """It opens, where the byte means nothing, or there is one line."""
    data = (folder / "model.bin").read_bytes()
    refusals: list[str] = []
    for place in range(0, 120, 7):
        changed = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            open_weights(damaged(folder, tmp_path / str(place), changed))
        except ModelLoadError as error:
            refusals.append(str(error))
    assert len(refusals) > 5
    assert not any("\n" in refusal for refusal in refusals)


def test_other_versions_and_models_are_named(folder: Path, tmp_path: Path) -> None:
    data = (folder / "model.bin").read_bytes()
    with pytest.raises(ModelLoadError, match="binary version 5"):
        open_weights(damaged(folder, tmp_path / "old", struct.pack("<I", 5) + data[4:]))
    with pytest.raises(ModelLoadError, match="WhisperSpeq"):
        open_weights(damaged(folder, tmp_path / "other", data.replace(b"WhisperSpec", b"WhisperSpeq", 1)))

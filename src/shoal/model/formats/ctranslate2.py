"""Whisper models in CTranslate2's format, which faster-whisper uses: a folder with `model.bin` and `config.json`.

The folder's config.json does not have the model's settings; they follow from the shapes of its tensors.
Source: CTranslate2 4, python/ctranslate2/specs/model_spec.py, `_serialize`: binary version 6.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.config import config_from_settings
from shoal.model.formats.huggingface.families.whisper import CT2_WHISPER
from shoal.model.formats.huggingface.safetensors_dir import Opened, SafetensorsDir
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.formats.model_file import map_file
from shoal.model.formats.speech_files import CTRANSLATE2_FILE

_VERSION = 6
_SPEC = "WhisperSpec"
_DTYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")
"""Types by their number in the file. Source: include/ctranslate2/types.h, DataType"""
_MAX_TENSORS = 1 << 16
_MAX_RANK = 8


def open_ctranslate2(directory: Path) -> SafetensorsDir:
    """Open the weights of a folder in the same way as those of a Hugging Face directory.

    Raises:
        ModelLoadError: the file is broken, of another version, of another model than Whisper, or quantized.
    """
    path = directory / CTRANSLATE2_FILE
    try:
        tensors = _Reader(path).tensors()
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise ModelLoadError(f"{path}: truncated or damaged ({error})") from error
    if any(tensor.endswith(".weight_scale") for tensor in tensors):
        raise ModelLoadError(
            f"{path}: its weights are quantized; convert the model with --quantization float16, and give --precision "
            "int8 here"
        )
    config = config_from_settings(path, "whisper", CT2_WHISPER, _settings(path, tensors))
    floats = {name: tensor for name, tensor in tensors.items() if tensor.shape and name.split(".")[0] in _PARTS}
    needless = {name for name in floats if name.rpartition(".")[2] in _NEEDLESS}
    kept = {name: tensor for name, tensor in floats.items() if name not in needless}
    return SafetensorsDir(directory, Opened(family=CT2_WHISPER, config=config, tensors=kept))


_PARTS = ("encoder", "decoder")
_NEEDLESS = ("alignment_heads", "alignment_layer")


def _settings(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings with the keys of a Hugging Face config.json."""
    try:
        vocab_size, d_model = tensors["decoder.embeddings.weight"].shape
        return {
            "vocab_size": vocab_size,
            "d_model": d_model,
            "num_mel_bins": tensors["encoder.conv1.weight"].shape[1],
            "encoder_layers": _count_layers(tensors, "encoder"),
            "encoder_attention_heads": int(tensors["encoder.num_heads"].items("<i2")[0]),
            "encoder_ffn_dim": tensors["encoder.layers.0.ffn.linear_0.weight"].shape[0],
            "decoder_layers": _count_layers(tensors, "decoder"),
            "decoder_attention_heads": int(tensors["decoder.num_heads"].items("<i2")[0]),
            "decoder_ffn_dim": tensors["decoder.layers.0.ffn.linear_0.weight"].shape[0],
            "max_source_positions": tensors["encoder.position_encodings.encodings"].shape[0],
            "max_target_positions": tensors["decoder.position_encodings.encodings"].shape[0],
        }
    except (KeyError, ValueError) as error:
        raise ModelLoadError(f"{path} is not a Whisper model that can be read ({error})") from error


def _count_layers(tensors: Mapping[str, Tensor], part: str) -> int:
    numbers = (re.match(rf"{part}\.layers\.(\d+)\.", name) for name in tensors)
    return len({found[1] for found in numbers if found})


class _Reader:
    """Walks through the file's header. Its numbers are bounded by the file's size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: mmap.mmap = map_file(path)
        self._place = 0

    def tensors(self) -> dict[str, Tensor]:
        """All variables by name, with dots for slashes and `layers.3` for `layer_3`."""
        if (version := self._number("<I")) != _VERSION:
            raise ModelLoadError(f"{self._path} has binary version {version}, not {_VERSION}: convert it again")
        if (spec := self._text()) != _SPEC:
            raise ModelLoadError(f"{self._path} is a {spec[:80]!r} of CTranslate2; only {_SPEC} can be read")
        self._number("<I")  # the revision of the specification, which is not used
        count = self._number("<I")
        if count > _MAX_TENSORS:
            raise ModelLoadError(f"{self._path}: damaged: {count} tensors")
        return dict(self._tensor() for _ in range(count))

    def _tensor(self) -> tuple[str, Tensor]:
        name = re.sub(r"layer_(\d+)", r"layers.\1", self._text().replace("/", "."))
        rank = self._number("<B")
        if rank > _MAX_RANK:
            raise ModelLoadError(f"{self._path}: damaged: {name[:80]!r} has {rank} dimensions")
        shape = tuple(self._number("<I") for _ in range(rank))
        dtype, num_bytes = _DTYPES[self._number("<B")], self._number("<I")
        start = self._place
        self._place += num_bytes
        item_bytes = {"F32": 4, "I8": 1, "I16": 2, "I32": 4, "F16": 2, "BF16": 2}[dtype]
        if self._place > len(self._data) or num_bytes != prod(shape) * item_bytes:
            raise ModelLoadError(f"{self._path}: truncated or damaged at {name[:80]!r}; download it again")
        return name, Tensor(data=self._data, dtype=dtype, shape=shape, start_bytes=start, stop_bytes=self._place)

    def _text(self) -> str:
        """A string. Its length in the file includes a zero byte at its end."""
        length = self._number("<H")
        data = self._data[self._place : self._place + length]
        self._place += length
        return data[:-1].decode()

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._place)
        self._place += struct.calcsize(form)
        return value

"""A GGUF model in parts, as gguf-split names them: the gguf package's writer splits it."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from shoal.errors import ModelLoadError
from shoal.model.formats.needed_chunks import needed_chunks
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from tests.model.tiny_models import _add_metadata, _default_metadata, tiny_llama_tensors


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    tensors = tiny_llama_tensors()
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=15)
    for key, value in _default_metadata("llama", tensors).items():
        _add_metadata(writer, key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("*.gguf"))


def test_all_parts_are_read(parts: list[Path]) -> None:
    assert [path.name for path in parts] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    source = open_weights(parts[0])
    for name, tensor in {"embedding": "token_embd", "layers.3.down": "blk.3.ffn_down"}.items():
        np.testing.assert_array_equal(dequantize(source.matrix(name, "auto")), tiny_llama_tensors()[f"{tensor}.weight"])
    assert set(needed_chunks(parts[0], 0, 4, 4)) == {path.name for path in parts}


def test_a_part_that_is_not_the_first(parts: list[Path]) -> None:
    with pytest.raises(ModelLoadError, match=r"one of 3 parts; give the first one, m-00001-of-00003\.gguf"):
        open_weights(parts[1])


def test_a_part_that_is_missing(parts: list[Path]) -> None:
    parts[2].unlink()
    with pytest.raises(ModelLoadError, match=r"m-00003-of-00003\.gguf is missing"):
        open_weights(parts[0])


def test_a_part_of_something_else(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(ModelLoadError, match=r"m-00003-of-00003\.gguf does not say that it is part 3 of 3"):
        open_weights(parts[0])


def test_a_first_part_under_another_name(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("renamed.gguf"))
    with pytest.raises(ModelLoadError, match=r"first of 3 parts, so its name must be NAME-00001-of-00003\.gguf"):
        open_weights(renamed)

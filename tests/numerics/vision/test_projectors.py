"""Models in GGUF files with a multimodal projector beside them, against transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from shoal.bench.generation import generate
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.open_weights import open_weights
from shoal.model.vision.find_vision import find_vision
from shoal.model.vision.open_vision import open_vision
from shoal.model.vision.projector.projector_file import projector_beside
from tests.model.converted_vision import convert_vision
from tests.model.tiny_models import VOCAB_SIZE
from tests.model.tiny_vision import MAKERS, make_tiny_vision, picture
from tests.numerics.engines import make_engine, make_executor
from tests.numerics.vision.picture_models import SeenPrompt

TOLERANCE = 1e-4
"""As of the same models in directories."""


@pytest.mark.parametrize(("family", "halves"), [(family, family == "qwen3_vl") for family in MAKERS])
def test_an_answer_is_that_of_transformers(family: str, halves: bool, tmp_path: Path) -> None:
    directory = make_tiny_vision(family, tmp_path / "hf")
    seen = SeenPrompt(directory, VOCAB_SIZE + 1, family, convert_vision(directory, tmp_path, halves=halves))
    request = seen.request("whole", max_tokens=32, want_logits=True)
    (result,) = generate(make_engine(make_executor(open_weights(seen.model))), [request], concurrency=1)
    expected = seen.expected(request.prompt_ids, result.token_ids)[len(request.prompt_ids) - 1 : -1]
    logits = np.stack([np.frombuffer(row, "<f4") for row in result.logits])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert result.token_ids == expected.argmax(axis=-1).tolist()


def test_names_that_old_files_have_the_other_way_round(tmp_path: Path) -> None:
    directory = make_tiny_vision("gemma3", tmp_path / "hf")
    seen = SeenPrompt(directory, VOCAB_SIZE + 1, "gemma3", convert_vision(directory, tmp_path))
    vectors = seen.vectors(picture(0))
    old = tmp_path / "old"
    old.mkdir()
    swapped = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    _rewritten(tmp_path / "mmproj-tiny.gguf", old / "mmproj-tiny.gguf", swapped)
    again = SeenPrompt(directory, VOCAB_SIZE + 1, "gemma3", old / "none.gguf")
    np.testing.assert_array_equal(again.vectors(picture(0)), vectors)


def test_what_is_no_projector_is_refused(tmp_path: Path) -> None:
    directory = make_tiny_vision("qwen3_vl", tmp_path / "hf")
    model = convert_vision(directory, tmp_path)
    projector = tmp_path / "mmproj-tiny.gguf"
    with pytest.raises(ModelLoadError, match="is not a multimodal projector"):
        find_vision(model, model)
    with pytest.raises(ModelLoadError, match="give the model's own file"):
        open_weights(projector)
    other = _rewritten(projector, tmp_path / "other.gguf", {}, projector="resampler")
    with pytest.raises(ModelLoadError, match=r"of type 'resampler' are not supported; there are qwen2\.5vl_merger"):
        find_vision(model, other)
    lacking = _rewritten(projector, tmp_path / "lacking.gguf", {"v.blk.1.ln2": "v.blk.1.ln3"})
    files = find_vision(model, lacking)
    assert files is not None
    with pytest.raises(ModelLoadError, match=r"there is no tensor v\.blk\.1\.ln2\.weight"):
        open_vision(files)


def test_the_projector_beside_a_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    assert projector_beside(model) is None
    first = tmp_path / "mmproj-model-f16.gguf"
    first.touch()
    assert projector_beside(model) == first
    (tmp_path / "other.mmproj-f32.gguf").touch()
    assert projector_beside(model) is None, "which of both is not said"


def _rewritten(source: Path, target: Path, names: dict[str, str], projector: str = "") -> Path:
    """The same file with parts of names exchanged, and another type of projector."""
    reader, header = gguf.GGUFReader(source), GgufHeader(source)
    writer = gguf.GGUFWriter(target, "clip")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = projector if projector and key == "clip.projector_type" else field.contents()
        writer.add_key_value(key, value, field.types[0], field.types[1] if len(field.types) > 1 else None)
    for name, tensor in header.tensors.items():
        values = np.frombuffer(header.rows(name), np.float32).reshape(tensor.shape)
        part = next((part for part in names if part in name), None)
        writer.add_tensor(name if part is None else name.replace(part, names[part]), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target

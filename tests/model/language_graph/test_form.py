"""What is found in folders, and which inputs are those of a language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from shoal.errors import ModelLoadError
from shoal.model.find_model import find_model
from shoal.model.language_graph.detect import find_language_graph, settings_file, text_folder
from shoal.model.language_graph.form import read_form
from shoal.protocol.stage_interface import Dim, TensorSpec
from tests.model.language_graph.graph_files import GENAI, MERGED, MERGED_FILE

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "tokens"))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", "tokens", 99))
CACHE: tuple[Dim, ...] = ("batch", 2, "past", 8)


def spec(name: str, shape: tuple[Dim, ...] = CACHE, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def caches(prefix: str, *, shape: tuple[Dim, ...] = CACHE, dtype: str = "float32") -> list[TensorSpec]:
    return [spec(f"{prefix}.0.{part}", shape, dtype) for part in ("key", "value")]


def test_inputs_are_told_apart() -> None:
    form = read_form("graph", [IDS, *caches("past_key_values")], [LOGITS, *caches("present")])
    assert [(one.past, one.present, one.num_heads, one.dim) for one in form.caches] == [
        ("past_key_values.0.key", "present.0.key", 2, 8),
        ("past_key_values.0.value", "present.0.value", 2, 8),
    ]
    assert (form.vocab_size, form.batch, form.num_layers) == (99, None, 1)


def test_what_the_graph_leaves_open_the_settings_say() -> None:
    past = caches("past_key_values", shape=("batch", "heads", "past", "width"))
    form = read_form("graph", [IDS, *past], [LOGITS, *caches("present")], num_heads=4, head_dim=16)
    assert {(one.num_heads, one.dim) for one in form.caches} == {(4, 16)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([IDS, spec("encoder_hidden_states"), *caches("past_key_values")], [LOGITS], "'encoder_hidden_states'"),
        (caches("past_key_values"), [LOGITS], "no input 'input_ids'"),
        ([IDS, *caches("past_key_values")], caches("present"), "no output 'logits'"),
        ([IDS, *caches("past_key_values")], [LOGITS], "no output 'present.0.key'"),
        ([IDS, *caches("past_key_values")[:1]], [LOGITS], "not a key and a value of layers"),
        (
            [IDS, *caches("past_key_values", shape=("b", 2, 64, 8))],
            [LOGITS, *caches("present")],
            "any number of tokens",
        ),
        ([IDS, *caches("past_key_values", shape=("b", "p", 8))], [LOGITS, *caches("present")], "any number of tokens"),
        ([IDS, *caches("past_key_values", dtype="int8")], [LOGITS, *caches("present", dtype="int8")], "is of int8"),
    ],
)
def test_what_is_no_language_model_is_named(inputs: list[TensorSpec], outputs: list[TensorSpec], reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason):
        read_form("graph", inputs, outputs)


def test_folders_and_files_are_found() -> None:
    assert find_language_graph(MERGED) == find_language_graph(MERGED_FILE) == MERGED_FILE
    assert find_language_graph(GENAI) == GENAI / "model.onnx"
    model = find_model(str(GENAI))
    assert (model.is_graph, model.config.family, model.config.max_context, model.config.vocab_size) == (
        True,
        "qwen2",
        256,
        288,
    )
    assert {one.name for one in model.files} == {"model.onnx", "model.onnx.data"}


def test_settings_and_tokenizer_may_lie_above_the_folder_onnx(tmp_path: Path) -> None:
    shutil.copytree(MERGED, tmp_path / "model")
    (tmp_path / "model" / "onnx").mkdir()
    graph = (tmp_path / "model" / MERGED_FILE.name).rename(tmp_path / "model" / "onnx" / "model.onnx")
    assert find_language_graph(tmp_path / "model") == graph
    assert settings_file(graph) == tmp_path / "model" / "config.json"
    assert text_folder(graph) == tmp_path / "model"


def test_a_graph_of_the_hub_comes_with_its_weights_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, allow_patterns: list[str]) -> str:
        assert repository == "org/name"
        assert {"model.onnx", "model.onnx_data*", "model.onnx.data*", "*.json"} <= {*allow_patterns}
        return str(GENAI)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = find_model("hf:org/name/model.onnx")
    assert (model.is_graph, model.path, model.name) == (True, GENAI / "model.onnx", "hf:org/name/model.onnx")


def test_a_graph_without_settings_is_plain_tensors(tmp_path: Path) -> None:
    shutil.copy(MERGED_FILE, tmp_path / "model.onnx")
    assert find_language_graph(tmp_path) is None
    assert find_language_graph(tmp_path / "model.onnx") is None


def test_a_folder_with_weights_of_its_own_is_no_graph(tmp_path: Path) -> None:
    shutil.copytree(MERGED, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").touch()
    assert find_language_graph(tmp_path) is None


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    shutil.copytree(MERGED, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json beside it.*--as graph"):
        find_model(str(tmp_path))


def test_two_graphs_in_the_place_of_one_are_named(tmp_path: Path) -> None:
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        shutil.copy(MERGED_FILE, tmp_path / name)
    with pytest.raises(ModelLoadError, match="export it as one graph"):
        find_language_graph(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_position_embeddings": None}, "max_position_embeddings, the longest text"),
        ({"max_position_embeddings": "long"}, "'long', not a whole number"),
        ({"max_position_embeddings": -1}, "-1, not a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    shutil.copytree(MERGED, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ModelLoadError, match=reason):
        find_model(str(tmp_path))

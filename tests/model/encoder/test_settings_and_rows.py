"""What sentence-transformers' files say, and texts as rows of tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.encoder.sentence_settings import read_sentence_settings
from shoal.model.encoder.text_rows import MAX_BATCH_TOKENS, TextRow, TextRows, padded_width
from tests.model.encoder.tiny_encoders import _tokenizer


def write(folder: Path, **files: Any) -> Path:
    """Files by their names with `__` for the folder."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def modules(*kinds: str) -> list[dict[str, str]]:
    places = {"Transformer": "", "Pooling": "1_Pooling"}
    return [{"type": f"sentence_transformers.models.{kind}", "path": places.get(kind, "2_x")} for kind in kinds]


def test_a_model_of_the_last_token_with_prompts(tmp_path: Path) -> None:
    """As Qwen3-Embedding has it."""
    folder = write(
        tmp_path,
        modules=modules("Transformer", "Pooling", "Normalize"),
        **{"1_Pooling__config": {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}},
        config_sentence_transformers={"prompts": {"query": "Q: ", "document": ""}, "default_prompt_name": None},
    )
    settings = read_sentence_settings(folder)
    assert settings is not None
    assert (settings.pooling, settings.is_normalized, settings.max_tokens) == ("last", True, None)
    assert [settings.prompt(kind) for kind in ("query", "document", "")] == ["Q: ", "", ""]


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_settings(tmp_path) is None
    folder = write(
        tmp_path, **{"1_Pooling__config": {"pooling_mode": "cls"}}, sentence_bert_config={"max_seq_length": 9}
    )
    settings = read_sentence_settings(folder)
    assert settings is not None
    assert (settings.pooling, settings.is_normalized, settings.max_tokens) == ("cls", False, 9)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules": modules("Transformer", "Pooling", "Dense")}, "'Dense' is not supported"),
        ({"modules": {"a": 1}}, "list of steps"),
        ({"modules": [{"type": "Pooling", "path": "../x"}]}, "leads out"),
        ({"1_Pooling__config": {"pooling_mode_weightedmean_tokens": True}}, "weightedmean"),
        ({"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}}, "cls, mean"),
        ({"1_Pooling__config": {}}, "nothing"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        read_sentence_settings(write(tmp_path, **files))


def test_little_of_a_batch_is_padding() -> None:
    for length in range(1, 2000):
        width = padded_width(length)
        assert length <= width
        assert width - length < max(8, length / 4)


def test_rows_of_like_lengths_go_together(tmp_path: Path) -> None:
    _tokenizer(pad_id=0).save(str(tmp_path / "tokenizer.json"))
    rows = TextRows(tmp_path / "tokenizer.json", max_tokens=500)
    lengths = [3, 400, 8, 9, 16, 399, 500]
    batches = list(rows.batches([TextRow(ids=[2] * length, type_ids=[0] * length) for length in lengths]))
    assert [(list(batch.places), batch.ids_BS.shape[1]) for batch in batches] == [
        ([0, 2], 8), ([3, 4], 16), ([1, 5], 448), ([6], 500),
    ]  # fmt: skip
    assert [int(length) for batch in batches for length in batch.mask_BS.sum(1)] == [3, 8, 9, 16, 400, 399, 500]
    many = list(rows.batches([TextRow(ids=[2] * 500, type_ids=[0] * 500)] * 40))
    assert sum(len(batch.places) for batch in many) == 40
    assert max(batch.ids_BS.size for batch in many) <= MAX_BATCH_TOKENS


def test_long_texts_are_refused_or_cut(tmp_path: Path) -> None:
    """Whatever the file says of cutting and padding."""
    _tokenizer(pad_id=0).save(str(tmp_path / "tokenizer.json"))
    rows = TextRows(tmp_path / "tokenizer.json", max_tokens=20)
    assert len(rows.rows(["time " * 18])[0].ids) == 20
    with pytest.raises(InvalidRequest, match="at most 20 tokens, but a text has 21"):
        rows.rows(["time " * 19])
    (cut,) = rows.rows(["time " * 19], cuts=True)
    assert (len(cut.ids), cut.ids[-1]) == (20, 3)
    (pair,) = rows.rows([("time", "year " * 30)], cuts=True)
    assert (len(pair.ids), pair.type_ids[:4]) == (20, [0, 0, 0, 1])
    with pytest.raises(InvalidRequest, match="token ids"):
        rows.row_of_ids([1000])

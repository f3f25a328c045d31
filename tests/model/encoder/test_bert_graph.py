"""Encoders against transformers: every family, pooling and width of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import ModelLoadError
from shoal.model.encoder.bert_graph import bert_settings
from shoal.model.encoder.detect import is_encoder_folder
from shoal.model.encoder.folder import EncoderFolder, open_encoder
from shoal.model.runtime_sessions import session_options, start_session
from tests.model.encoder.tiny_encoders import WORDS, make_encoder
from tests.real_models import minilm_folder

TEXTS = ["time", "people way day", " ".join(WORDS), " ".join(WORDS * 2), "unheard of words"]
PAIRS = [("time", "year"), ("people way", " ".join(WORDS)), ("a", "b")]


def run(encoder: EncoderFolder, texts: Any) -> np.ndarray:
    """Each text's row of the graph's output."""
    session = start_session(encoder.graph, session_options(1))
    rows = encoder.rows.rows(texts)
    values: dict[int, np.ndarray] = {}
    for batch in encoder.rows.batches(rows):
        arrays = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS, "token_type_ids": batch.type_ids_BS}
        given = {one.name: arrays[one.name] for one in session.get_inputs()}
        (output,) = session.run(None, given)
        values.update(zip(batch.places, output, strict=True))
    return np.stack([values[place] for place in range(len(rows))])


def reference(folder: Path, encoder: EncoderFolder, text: Any, mode: str, *, compares: bool = False) -> np.ndarray:
    """One text by itself, without padding, through transformers."""
    import torch
    import transformers

    kind = transformers.AutoModelForSequenceClassification if compares else transformers.AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    (row,) = encoder.rows.rows([text])
    types = {"token_type_ids": torch.tensor([list(row.type_ids)])} if model.config.model_type == "bert" else {}
    with torch.no_grad():
        output = model(input_ids=torch.tensor([list(row.ids)]), **types)
    if compares:
        return output.logits[0].numpy()
    tokens_SH = output.last_hidden_state[0].numpy()
    return {"cls_token": tokens_SH[0], "mean_tokens": tokens_SH.mean(0), "max_tokens": tokens_SH.max(0)}[mode]


@pytest.mark.parametrize(
    ("kind", "pooling", "is_normalized"),
    [
        ("bert", "mean_tokens", True),
        ("bert", "cls_token", False),
        ("roberta", "max_tokens", False),
        ("xlm-roberta", "cls_token", True),
    ],
)
def test_vectors(tmp_path: Path, kind: str, pooling: str, is_normalized: bool) -> None:
    folder = make_encoder(tmp_path / "model", kind, pooling=pooling, is_normalized=is_normalized)
    assert is_encoder_folder(str(folder))
    encoder = open_encoder(folder)
    assert not encoder.compares
    vectors = run(encoder, TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        expected = reference(folder, encoder, text, pooling)
        expected = expected / np.linalg.norm(expected) if is_normalized else expected
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_scores_of_pairs(tmp_path: Path, kind: str) -> None:
    folder = make_encoder(tmp_path / "model", kind, compares=True, pooling=None)
    encoder = open_encoder(folder)
    assert encoder.compares
    scores = run(encoder, PAIRS)
    for pair, score in zip(PAIRS, scores, strict=True):
        np.testing.assert_allclose(score, reference(folder, encoder, pair, "", compares=True), atol=1e-5)


def test_a_graph_is_built_once_and_anew_where_the_files_change(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    first = open_encoder(folder).graph
    changed_s = first.stat().st_mtime_ns
    assert open_encoder(folder).graph.stat().st_mtime_ns == changed_s
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert open_encoder(folder).graph != first


def test_a_graph_that_a_folder_brings_is_taken(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(open_encoder(folder).graph.read_bytes())
    (folder / "model.safetensors").unlink()
    encoder = open_encoder(folder)
    assert encoder.graph == folder / "onnx" / "model.onnx"
    assert encoder.rows.max_tokens == 48


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "deberta-v2"}, "export the model"),
        ({"hidden_act": "mystery"}, "mystery"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "one label"),
    ],
)
def test_settings_that_are_not_supported(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = make_encoder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(ModelLoadError, match=words):
        bert_settings(folder / "config.json", {**config, **changes})


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16, "num_hidden_layers": 3}))
    with pytest.raises(ModelLoadError, match="has the shape"):
        open_encoder(folder)
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelLoadError, match=r"no tensor encoder\.layer\.2"):
        open_encoder(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_sentence_transformers_own_vectors(tmp_path: Path, name: str) -> None:
    """Real weights, and a batch that it pads and sorts itself."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = minilm_folder() if name == "minilm" else make_encoder(tmp_path / "model")
    texts = [*TEXTS, "The cat sleeps.", "A shoal is many fish that swim as one, and never sleeps.", "Ünïcödé 漢字"]
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(run(open_encoder(folder), texts), expected, atol=1e-5)

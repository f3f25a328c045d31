"""A language model that makes vectors, as Qwen3-Embedding's folder has it: `shoal serve` over a pipeline of it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from shoal.errors import ModelLoadError
from shoal.model.encoder.decoder_settings import read_decoder_settings
from tests.integration.served import served
from tests.model.tiny_models import make_tiny_model, tiny_llama_tensors, write_gguf

TEXTS = ["A shoal is many fish.", "the tide", "In the morning the boats go out, and in the evening they come home."]
PROMPT = "Find: "


def add_settings(folder: Path, pooling: str = "lasttoken") -> Path:
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": place} for kind, place in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": PROMPT}}))
    return folder


def reference(folder: Path, texts: list[str]) -> np.ndarray:
    """Through transformers, a text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1].numpy() for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def test_a_pipeline_of_an_embedding_model(tmp_path: Path) -> None:
    folder = add_settings(make_tiny_model("qwen3", tmp_path / "model"))
    with (
        served(folder, "--split", "pp=2") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model="tiny", input=TEXTS)
        np.testing.assert_allclose([one.embedding for one in answer.data], reference(folder, TEXTS), atol=1e-5)
        queries = client.embeddings.create(model="tiny", input=TEXTS, extra_body={"input_type": "query"})
        prompted = reference(folder, [PROMPT + text for text in TEXTS])
        np.testing.assert_allclose([one.embedding for one in queries.data], prompted, atol=1e-5)
        ranked = httpx.post(f"{server.url}/v1/rerank", json={"query": TEXTS[1], "documents": TEXTS}).json()
        cosines = reference(folder, TEXTS) @ prompted[1]
        assert [one["index"] for one in ranked["results"]] == np.argsort(-cosines).tolist()
        long = {"input": "tide " * 600}
        assert httpx.post(f"{server.url}/v1/embeddings", json=long).json()["error"]["param"] == "input"
        cut = httpx.post(f"{server.url}/v1/embeddings", json={**long, "truncate_prompt_tokens": -1}).json()
        assert cut["usage"]["prompt_tokens"] == 511
        assert server.metric("generation_tokens_total") == 0, "a vector is no token"
        chat = client.completions.create(model="tiny", prompt="the tide", max_tokens=3)
        assert chat.usage is not None


def test_what_files_say_of_vectors(tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", "llama", tiny_llama_tensors())
    assert read_decoder_settings(plain) is None
    last = write_gguf(tmp_path / "last.gguf", "llama", tiny_llama_tensors(), metadata={"llama.pooling_type": 3})
    settings = read_decoder_settings(last)
    assert settings is not None
    assert settings.is_normalized
    mean = write_gguf(tmp_path / "mean.gguf", "llama", tiny_llama_tensors(), metadata={"llama.pooling_type": 1})
    (tmp_path / "folder").mkdir()
    for path in (mean, add_settings(tmp_path / "folder", "mean_tokens")):
        with pytest.raises(ModelLoadError, match="mean"):
            read_decoder_settings(path)

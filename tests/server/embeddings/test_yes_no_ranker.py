"""Language models that rank by answering yes or no, as Qwen3-Reranker does, in the forms in which they are shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from shoal.errors import ModelLoadError
from shoal.model.encoder.decoder_settings import read_decoder_settings
from tests.integration.served import served
from tests.model.tiny_models import (
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    make_tiny_model,
    tiny_llama_tensors,
    tiny_tokenizer,
    write_gguf,
)

QUERY = "When do the boats go out?"
DOCUMENTS = ["In the morning the boats go out.", "a shoal of fish", "{query} is a place, {document} another", "No."]
INSTRUCTION = "Find what is said of fish"
YES, NO = VOCAB_SIZE, VOCAB_SIZE + 1
ROLES_TEMPLATE = (
    "{% set said = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first %}"
    "<|im_start|>{{ said if said else 'Find what answers.' }}\n"
    "Query: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "Document: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>never{% endif %}Answer:"
)


def reranker(directory: Path) -> Path:
    """A tiny model with tokens for the two answers."""
    folder = make_tiny_model("qwen3", directory, vocab_size=VOCAB_SIZE + 2)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def saved_by_sentence_transformers(folder: Path, max_tokens: int = 512) -> Path:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    (folder / "chat_template.jinja").write_text(ROLES_TEMPLATE)
    transformer = Transformer(str(folder), transformer_task="text-generation", max_seq_length=max_tokens)
    transformer.tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})  # pyright: ignore[reportOptionalMemberAccess]
    CrossEncoder(modules=[transformer, LogitScore(YES, NO)], device="cpu").save(str(folder / "saved"))
    return folder / "saved"


def prompted(folder: Path, document: str, instruction: str) -> float:
    """The recipe of Qwen3-Reranker's model card, over transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    judge = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
        'answer can only be "yes" or "no".'
    )
    body = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
    text = f"<|im_start|>system\n{judge}<|im_end|>\n<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text + "<think>\n\n</think>\n\n", return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits = model(**ids).logits[0, -1]
    return float(torch.softmax(logits[[YES, NO]], -1)[0])


def ranking_gguf(path: Path, form: str) -> Path:
    """With the keys and the tensor that llama.cpp's converter adds to models that rank."""
    tensors = tiny_llama_tensors()
    rows = np.random.default_rng(0).standard_normal((2, tensors["token_embd.weight"].shape[1])).astype(np.float32)
    tensors["token_embd.weight"] = np.concatenate([tensors["token_embd.weight"], rows])
    if "output.weight" in tensors:
        tensors["output.weight"] = np.concatenate([tensors["output.weight"], rows])
    model = tiny_tokenizer().get_vocab()
    tokens = [*sorted(model, key=model.__getitem__), "yes", "no"]
    metadata = {
        "llama.pooling_type": 4,
        "llama.classifier.output_labels": ["yes", "no"],
        "tokenizer.chat_template.rerank": form,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL_TOKENS) + [1] * (VOCAB_SIZE - len(SPECIAL_TOKENS)) + [4, 4],
    }
    return write_gguf(path, "llama", {**tensors, "cls.output.weight": rows}, metadata=metadata)


def scores_of(url: str, **fields: Any) -> list[float]:
    """By both endpoints, which must agree."""
    scored = httpx.post(f"{url}/v1/score", json={"text_1": QUERY, "text_2": DOCUMENTS, **fields}).json()
    ranked = httpx.post(f"{url}/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **fields}).json()
    scores = [one["score"] for one in scored["data"]]
    assert [one["index"] for one in ranked["results"]] == np.argsort(-np.array(scores), kind="stable").tolist()
    return scores


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = saved_by_sentence_transformers(reranker(tmp_path / "model"), max_tokens=64)
    judge = CrossEncoder(str(folder), device="cpu")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    with served(folder, "--split", "tp=2") as server:
        np.testing.assert_allclose(scores_of(server.url), judge.predict(pairs), atol=1e-5)
        expected = judge.predict(pairs, prompt=INSTRUCTION)
        np.testing.assert_allclose(scores_of(server.url, instruction=INSTRUCTION), expected, atol=1e-5)
        long = "boats go out " * 60
        cut = httpx.post(f"{server.url}/v1/score", json={"text_1": QUERY, "text_2": long}).json()
        np.testing.assert_allclose(cut["data"][0]["score"], judge.predict((QUERY, long)), atol=1e-5)
        assert cut["usage"]["prompt_tokens"] == 64
        refused = httpx.post(f"{server.url}/v1/embeddings", json={"input": "the tide"})
        assert refused.status_code == 400
        assert "/v1/rerank" in refused.json()["error"]["message"]


def test_a_folder_that_is_called_a_reranker(tmp_path: Path) -> None:
    folder = reranker(tmp_path / "Tiny-Reranker")
    default = "Given a web search query, retrieve relevant passages that answer the query"
    with served(folder, "--split", "pp=2") as server:
        for instruction, fields in ((default, {}), (INSTRUCTION, {"instruction": INSTRUCTION})):
            expected = [prompted(folder, document, instruction) for document in DOCUMENTS]
            np.testing.assert_allclose(scores_of(server.url, **fields), expected, atol=1e-5)
        long = httpx.post(f"{server.url}/v1/score", json={"text_1": "tide " * 900, "text_2": "a"})
        assert (long.status_code, long.json()["error"]["param"]) == (400, "query")


def test_a_gguf_file_that_ranks(tmp_path: Path) -> None:
    form = "<|im_start|>{query}\n{document}<|im_end|>"
    with served(ranking_gguf(tmp_path / "m.gguf", form)) as server:
        scores = scores_of(server.url)
        asked = httpx.post(
            f"{server.url}/v1/completions",
            json={
                "prompt": form.replace("{document}", DOCUMENTS[1]).replace("{query}", QUERY),
                "max_tokens": 1,
                "temperature": 0,
                "logit_bias": {str(YES): 100, str(NO): 100},
                "logprobs": 2,
            },
        ).json()
        top = asked["choices"][0]["logprobs"]["top_logprobs"][0]
        assert scores[1] == pytest.approx(1 / (1 + np.exp(top["no"] - top["yes"])), abs=1e-5)
        told = httpx.post(f"{server.url}/v1/rerank", json={"query": "a", "documents": ["b"], "instruction": "c"})
        assert (told.status_code, told.json()["error"]["param"]) == (400, "instruction")


def test_ranks_that_are_not_made_by_two_answers(tmp_path: Path) -> None:
    headed = write_gguf(tmp_path / "rank.gguf", "llama", tiny_llama_tensors(), metadata={"llama.pooling_type": 4})
    with pytest.raises(ModelLoadError, match="separate head"):
        read_decoder_settings(headed)
    folder = tmp_path / "one"
    (folder / "1_LogitScore").mkdir(parents=True)
    modules = [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in KINDS]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 3, "false_token_id": None}))
    with pytest.raises(ModelLoadError, match="only by two"):
        read_decoder_settings(folder)
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 3, "false_token_id": 4}))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelLoadError, match="roles"):
        read_decoder_settings(folder)


KINDS = (("Transformer", ""), ("LogitScore", "1_LogitScore"))

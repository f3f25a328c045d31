"""Vectors, ranks and scores of texts through the official client and in the forms of Cohere, Jina and vLLM."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest

from shoal.arrays import F32
from shoal.embeddings.encoder import Encoded, Text
from shoal.errors import InvalidRequest, QueueFull
from shoal.server.oip.app import ServedEncoder
from tests.server.oip.running import run_server

WIDTH = 4


def vector(text: Text) -> F32:
    """Counts of a few letters, or of the first token ids."""
    counts = [text.count(letter) for letter in "abcd"] if isinstance(text, str) else list(text[:WIDTH])
    values = np.array(counts, np.float32) + np.float32(0.5)
    return values / np.linalg.norm(values)


class LetterEncoder:
    """Implements `TextEncoder`."""

    def __init__(self, *, compares: bool = False) -> None:
        self.compares = compares
        self.kinds: list[str] = []
        self.is_closed = False

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        self.kinds.append(kind)
        if any(len(text) > 50 for text in texts) and not cuts:
            raise InvalidRequest("too long", "input")
        if "full" in texts:
            raise QueueFull("too much waits", 2.0)
        return Encoded(values=np.stack([vector(text) for text in texts]), num_tokens=sum(map(len, texts)))

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        values = np.array([0.25 if first in second else 0.125 for first, second in pairs], np.float32)
        return Encoded(values=values, num_tokens=len(pairs))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="module")
def encoder() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture(scope="module")
def url(encoder: LetterEncoder) -> Generator[str, None, None]:
    served = ServedEncoder(encoder=encoder, model_name="letters", strict_fields=True)
    with run_server(encoder=served, api_key="k") as running:
        yield running.url
    assert encoder.is_closed


@pytest.fixture(scope="module")
def client(url: str) -> Generator[openai.OpenAI, None, None]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as official:
        yield official


@pytest.fixture(scope="module")
def http(url: str) -> Generator[httpx.Client, None, None]:
    with httpx.Client(base_url=url, headers={"authorization": "Bearer k"}) as plain:
        yield plain


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_vectors(client: openai.OpenAI, encoding: Any) -> None:
    """The client asks for base64 by itself where nothing is said, and unpacks it."""
    texts = ["abba", "dad", ""]
    answer = client.embeddings.create(model="letters", input=texts, encoding_format=encoding or openai.NOT_GIVEN)
    assert [one.index for one in answer.data] == [0, 1, 2]
    if encoding != "base64":
        values = np.array([one.embedding for one in answer.data])
        np.testing.assert_allclose(values, [vector(text) for text in texts], rtol=1e-6)
    assert (answer.usage.prompt_tokens, answer.model) == (7, "letters")


@pytest.mark.parametrize("given", ["abc", [1, 2, 3, 4], [[4, 3, 2, 1], [5, 6, 7, 8]], ["a"] * 2048])
def test_forms_of_input(client: openai.OpenAI, given: Any) -> None:
    answer = client.embeddings.create(model="letters", input=given, encoding_format="float")
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    np.testing.assert_allclose([one.embedding for one in answer.data], [vector(text) for text in texts], rtol=1e-6)


def test_fewer_dimensions_have_length_1_again(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="letters", input="aab", dimensions=2, encoding_format="float")
    expected = vector("aab")[:2] / np.linalg.norm(vector("aab")[:2])
    np.testing.assert_allclose(answer.data[0].embedding, expected, rtol=1e-6)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["letters"]
    assert client.models.retrieve("letters").id == "letters"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [["a"]]}, "input"),
        ({"input": "x" * 51}, "input"),
        ({"dimensions": 5}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"normalize": False}, "normalize"),
        ({"inputs": "x"}, "inputs"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_cannot_be_used_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": "x", **fields})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def test_long_texts_may_be_cut(http: httpx.Client) -> None:
    assert http.post("/v1/embeddings", json={"input": "x" * 51, "truncate_prompt_tokens": -1}).status_code == 200


def test_overload_and_keys(http: httpx.Client, url: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": "full"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    for path in ("/v1/embeddings", "/v2/rerank", "/score", "/v1/models"):
        assert httpx.post(url + path, json={}).status_code == 401


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_ranks(http: httpx.Client, encoder: LetterEncoder, path: str) -> None:
    encoder.kinds.clear()
    documents = ["ddd", {"text": "aab"}, "abc"]
    body = {"model": "letters", "query": "aaab", "documents": documents, "top_n": 2}
    answer = http.post(path, json=body).json()
    assert [one["index"] for one in answer["results"]] == [1, 2]
    cosine = float(vector("aaab") @ vector("aab"))
    assert answer["results"][0]["relevance_score"] == pytest.approx(cosine, rel=1e-5)
    assert "document" not in answer["results"][0]
    shown = http.post(path, json={**body, "return_documents": True, "top_n": None}).json()
    assert [one["document"]["text"] for one in shown["results"]] == ["aab", "abc", "ddd"]
    assert encoder.kinds[:2] == ["query", "document"]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores(http: httpx.Client, path: str) -> None:
    one = http.post(path, json={"text_1": "aab", "text_2": ["aab", "ccc"]}).json()
    assert [entry["score"] for entry in one["data"]] == pytest.approx([1.0, float(vector("aab") @ vector("ccc"))])
    many = http.post(path, json={"text_1": ["a", "b"], "text_2": ["a", "a"]}).json()
    assert [entry["score"] for entry in many["data"]] == pytest.approx([1.0, float(vector("b") @ vector("a"))])
    assert http.post(path, json={"text_1": ["a", "b"], "text_2": ["a"]}).json()["error"]["param"] == "text_1"


def test_a_model_that_compares() -> None:
    served = ServedEncoder(encoder=LetterEncoder(compares=True), model_name="pairs")
    with run_server(encoder=served) as running:
        body = {"query": "b", "documents": ["a", "abc"]}
        results = httpx.post(f"{running.url}/v1/rerank", json=body).json()["results"]
        assert [(one["index"], one["relevance_score"]) for one in results] == [(1, 0.25), (0, 0.125)]
        refused = httpx.post(f"{running.url}/v1/embeddings", json={"input": "a"})
        assert (refused.status_code, "compares texts" in refused.text) == (400, True)


def test_ollamas_client(url: str) -> None:
    with ollama.Client(host=url, headers={"authorization": "Bearer k"}) as client:
        answer = client.embed(model="letters:latest", input=["abc", "dd"])
        np.testing.assert_allclose(answer.embeddings, [vector("abc"), vector("dd")], rtol=1e-6)
        assert answer.prompt_eval_count == 5
        assert len(client.embed(model="letters", input="abc", dimensions=2).embeddings[0]) == 2
        assert len(client.embed(model="letters", input="a" * 60).embeddings) == 1
        np.testing.assert_allclose(client.embeddings(model="letters", prompt="abc").embedding, vector("abc"), rtol=1e-6)
        for fields, said in (
            ({"model": "other", "input": "a"}, "does not exist"),
            ({"model": "letters", "input": "a" * 60, "truncate": False}, "too long"),
            ({"model": "letters", "input": "a", "dimensions": 9}, "fewer than 9"),
            ({"model": "letters", "input": []}, "texts"),
        ):
            with pytest.raises(ollama.ResponseError, match=said):
                client.embed(**fields)


def test_ollamas_client_finds_the_model(url: str) -> None:
    with ollama.Client(host=url, headers={"authorization": "Bearer k"}) as client:
        assert [one.model for one in client.list().models] == ["letters"]
        assert [one.model for one in client.ps().models] == ["letters"]
        assert client.show("letters:latest").capabilities == ["embedding"]
        assert client.pull("letters").status == "success"
        for ask in (client.show, client.pull):
            with pytest.raises(ollama.ResponseError, match="does not exist"):
                ask("other")
    assert httpx.get(f"{url}/api/version", headers={"authorization": "Bearer k"}).json()["version"]
    assert httpx.get(f"{url}/api/version").status_code == 401


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
def test_bodies_of_many_lists_are_refused_before_they_are_read(http: httpx.Client, path: str) -> None:
    lists = "[" + ",".join(["[]"] * 40_000) + "]"
    answer = http.post(path, content=f'{{"model": "letters", "input": "a", "prompt": "a", "more": {lists}}}')
    assert answer.status_code == 400
    assert "lists and objects" in answer.text

"""`shoal serve` of models that see: clients of every dialect send pictures, workers die, what is wrong is refused."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anthropic
import httpx
import numpy as np
import ollama
import openai
import pytest
from tokenizers import Tokenizer

from tests.integration.running import kill
from tests.integration.served import Served, served
from tests.model.converted_vision import convert_vision
from tests.model.tiny_models import VOCAB_SIZE, make_tiny_model
from tests.model.tiny_vision import data_url, make_tiny_vision, picture, picture_file
from tests.numerics.vision.picture_models import SeenPrompt

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "gemma3")
NUM_OUTPUT = 48
TEXT = "What swims there?"
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SeenPrompt]:
    """By family."""
    return {
        family: SeenPrompt(make_tiny_vision(family, tmp_path_factory.mktemp(family)), VOCAB_SIZE + 1, family)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def expected(models: dict[str, SeenPrompt]) -> dict[str, str]:
    """transformers' greedy answer of each family to `question()`, as the tokenizer writes it."""
    return {family: reference_answer(seen) for family, seen in models.items()}


@pytest.fixture(scope="module")
def server(models: dict[str, SeenPrompt]) -> Iterator[Served]:
    with served(models["gemma3"].directory, "--split", "1") as running:
        yield running


def question(*seeds: int) -> Any:
    """Two pictures and a text, as OpenAI's chats have them."""
    shown = [{"type": "image_url", "image_url": {"url": data_url(picture(seed))}} for seed in seeds or (0, 1)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": TEXT}]}]


def reference_answer(seen: SeenPrompt) -> str:
    """Prompt and answer through transformers alone: its processor's pixels, its positions, its greedy choice."""
    tokenizer = Tokenizer.from_file(str(seen.directory / "tokenizer.json"))
    text = seen.reference_prompt(TEXT, 2)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    counts = iter(seen.reference_counts((0, 1)))
    prompt = [one for token in ids for one in ([token] * next(counts) if token == seen.placeholder else [token])]
    answer: list[int] = []
    for _ in range(NUM_OUTPUT):
        answer.append(int(seen.expected(prompt, answer)[-1].argmax()))
    return tokenizer.decode(answer, skip_special_tokens=True)


def openai_client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0)


def ask(server: Served, messages: Any) -> str | None:
    """The answer to a chat, past the model's own end."""
    with openai_client(server) as client:
        answer = client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=NUM_OUTPUT, extra_body={"ignore_eos": True}
        )
    return answer.choices[0].message.content


def test_an_answer_comes_again_from_kept_vectors_and_cached_blocks(server: Served, expected: dict[str, str]) -> None:
    assert ask(server, question()) == expected["gemma3"]
    hits = server.metric("prefix_cache_hits_total")
    assert ask(server, question()) == expected["gemma3"]
    assert server.metric("prefix_cache_hits_total") > hits


def test_other_dialects_answer_the_same(server: Served) -> None:
    """With the model's own end, which some of their bodies cannot ignore."""
    files = [picture_file(picture(seed)) for seed in (0, 1)]
    with openai_client(server) as client:
        whole = client.chat.completions.create(model="tiny", messages=question(), max_tokens=12, temperature=0)
        shown = [{"type": "input_image", "image_url": data_url(picture(seed))} for seed in (0, 1)]
        turns: Any = [{"role": "user", "content": [*shown, {"type": "input_text", "text": TEXT}]}]
        response = client.responses.create(model="tiny", input=turns, max_output_tokens=12, temperature=0)
    expected = whole.choices[0].message.content
    assert response.output_text == expected
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _base64(file)}}
        for file in files
    ]
    turn: Any = {"role": "user", "content": [*blocks, {"type": "text", "text": TEXT}]}
    with anthropic.Anthropic(base_url=server.url, api_key="none", timeout=TIMEOUT_S, max_retries=0) as claude:
        message = claude.messages.create(model="tiny", messages=[turn], max_tokens=12, extra_body={"temperature": 0})
        counted = claude.messages.count_tokens(model="tiny", messages=[turn])
    assert [getattr(block, "text", None) for block in message.content] == [expected]
    assert whole.usage is not None
    assert counted.input_tokens == whole.usage.prompt_tokens
    options = {"temperature": 0, "num_predict": 12}
    with ollama.Client(host=server.url) as local:
        told = local.chat("tiny", messages=[{"role": "user", "content": TEXT, "images": files}], options=options)
        asked = local.generate("tiny", prompt=TEXT, images=files, options=options)
    assert told.message.content == asked.response == expected


@pytest.mark.parametrize(
    ("family", "split", "vision_split"),
    [
        ("qwen2_5_vl", "pp=2", "1"),
        ("gemma3", "tp=2", "pp=2"),
        ("qwen3_vl", "dp=2", "dp=2"),
        ("qwen3_vl_moe", "pp=2", "1"),
    ],
)
def test_killed_workers_change_no_word(
    family: str, split: str, vision_split: str, models: dict[str, SeenPrompt], expected: dict[str, str]
) -> None:
    """One of the language model and one of the vision part, while an answer comes that is transformers' own."""
    options = ("--split", split, "--vision-split", vision_split)
    with served(models[family].directory, *options) as server, openai_client(server) as client:
        before = server.workers()
        stream = client.chat.completions.create(
            model="tiny",
            messages=question(),
            temperature=0,
            max_tokens=NUM_OUTPUT,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        pieces = [next(stream).choices[0].delta.content or ""]
        for pid in (before[0], before[-1]):
            kill(pid)
        pieces += [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == expected[family]
        fresh = question(2, 1)
        assert ask(server, fresh) == ask(server, fresh), "the vision part works again"


def test_a_gguf_file_and_the_projector_beside_it(tmp_path: Path) -> None:
    """Found by itself, and named; that of another model is refused."""
    directory = make_tiny_vision("gemma3", tmp_path / "hf")
    model = convert_vision(directory, tmp_path)
    expected = reference_answer(SeenPrompt(directory, VOCAB_SIZE + 1, "gemma3"))
    with served(model, "--split", "pp=2") as server:
        assert ask(server, question()) == expected
    elsewhere = (tmp_path / "mmproj-tiny.gguf").rename(tmp_path / "hf" / "eyes.gguf")
    with served(model, "--split", "1") as server, pytest.raises(openai.BadRequestError, match="takes text only"):
        ask(server, question())
    with served(model, "--split", "1", "--mmproj", str(elsewhere)) as server:
        assert ask(server, question()) == expected
    other = make_tiny_vision("qwen3_vl", tmp_path / "other-hf")
    (tmp_path / "other").mkdir()
    convert_vision(other, tmp_path / "other")
    for wrong, message in (
        (tmp_path / "other" / "mmproj-tiny.gguf", "is of another model"),
        (model, "not a multimodal"),
    ):
        command = [sys.executable, "-m", "shoal", "serve", str(model), "--split", "1", "--mmproj", str(wrong)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert refused.returncode != 0
        assert message in refused.stderr


def test_what_is_no_picture_is_refused(server: Served, models: dict[str, SeenPrompt]) -> None:
    def refusal(url: str) -> str:
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=TIMEOUT_S)
        assert answer.status_code == 400
        return answer.json()["error"]["message"]

    assert "truncated" in refusal("data:image/png;base64," + _base64(picture_file(picture(0))[:200]))
    assert "not a picture" in refusal("data:image/png;base64,aGVsbG8=")
    assert "no valid base64" in refusal("data:image/png;base64,a===b")
    assert "--allow-remote-media" in refusal("http://127.0.0.1:9/fish.png")
    assert "must begin with" in refusal("file:///etc/hostname")
    assert "must begin with" in refusal("data:text/html;base64,aGVsbG8=")
    bomb = picture_file(_blank(9000, 9000))
    assert len(bomb) < 1 << 20
    assert "at most 64,000,000" in refusal("data:image/png;base64," + _base64(bomb))
    message = {
        "role": "user",
        "content": [*question()[0]["content"], {"type": "text", "text": models["gemma3"].vision.mark}],
    }
    with pytest.raises(openai.BadRequestError, match="places for 3 pictures, but there are 2"):
        ask(server, [message])
    with pytest.raises(openai.BadRequestError, match="at most 32"):
        ask(server, question(*[0] * 33))
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        ask(server, question(*[0] * 32))


def test_pictures_from_elsewhere_where_that_is_allowed(models: dict[str, SeenPrompt], expected: dict[str, str]) -> None:
    files = {f"/{seed}.png": picture_file(picture(seed)) for seed in (0, 1)}

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = files.get(self.path)
            self.send_response(404 if file is None else 200)
            self.end_headers()
            self.wfile.write(file or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Files) as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{elsewhere.server_port}"
        try:
            with served(models["qwen3_vl"].directory, "--split", "1", "--allow-remote-media") as server:
                shown = [{"type": "image_url", "image_url": {"url": f"{place}/{seed}.png"}} for seed in (0, 1)]
                text = {"type": "text", "text": TEXT}
                assert ask(server, [{"role": "user", "content": [*shown, text]}]) == expected["qwen3_vl"]
                missing = {"type": "image_url", "image_url": {"url": f"{place}/none.png"}}
                with pytest.raises(openai.BadRequestError, match="cannot be fetched"):
                    ask(server, [{"role": "user", "content": [missing, text]}])
        finally:
            elsewhere.shutdown()
            thread.join()


def test_a_model_of_texts_takes_no_pictures(tmp_path: Path) -> None:
    model = make_tiny_model("llama", tmp_path)
    with served(model, "--split", "1") as server, pytest.raises(openai.BadRequestError, match="takes text only"):
        ask(server, question())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)

"""`shoal.LLM` and `shoal run` with pictures, in all the forms in which Python has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import shoal
from shoal.api.generation import LLM
from shoal.errors import ConfigError, InvalidRequest
from tests.integration.families.test_pictures import NUM_OUTPUT, TEXT, reference_answer
from tests.model.converted_vision import convert_vision
from tests.model.tiny_models import VOCAB_SIZE
from tests.model.tiny_vision import data_url, make_tiny_vision, picture, picture_file
from tests.numerics.vision.picture_models import SeenPrompt

ASK: dict[str, Any] = {"max_tokens": NUM_OUTPUT, "ignore_eos": True}
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> SeenPrompt:
    """In a GGUF file with the projector beside it."""
    folder = tmp_path_factory.mktemp("seen")
    directory = make_tiny_vision("qwen3_vl", folder / "hf")
    return SeenPrompt(directory, VOCAB_SIZE + 1, "qwen3_vl", convert_vision(directory, folder))


@pytest.fixture(scope="module")
def expected(seen: SeenPrompt) -> str:
    return reference_answer(seen)


@pytest.fixture(scope="module")
def llm(seen: SeenPrompt) -> Iterator[LLM]:
    with shoal.LLM(seen.model, split="1", threads=1) as loaded:
        yield loaded


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The pictures of `reference_answer`."""
    for seed in (0, 1):
        (tmp_path / f"{seed}.png").write_bytes(picture_file(picture(seed)))
    return [tmp_path / "0.png", tmp_path / "1.png"]


def conversation(*images: object) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": TEXT}]}]


def test_paths_bytes_images_and_urls_are_the_same_picture(llm: LLM, expected: str, files: list[Path]) -> None:
    assert llm.takes_pictures
    first, second = picture(0), picture(1)
    pairs: list[tuple[object, object]] = [
        (files[0], str(files[1])),
        (files[0].read_bytes(), Image.open(files[1])),
        (Image.fromarray(first).convert("RGBA"), data_url(second)),
    ]
    for pair in pairs:
        assert llm.chat(conversation(*pair), **ASK).text == expected
    parts = [{"type": "image_url", "image_url": {"url": data_url(pixels)}} for pixels in (first, second)]
    turn = {"role": "user", "content": [*parts, {"type": "text", "text": TEXT}]}
    with llm.stream([turn], **ASK) as deltas:
        assert "".join(deltas) == expected
    texts = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    assert llm.chat(texts, **ASK).text == llm.chat([{"role": "user", "content": TEXT}], **ASK).text


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"hello", "not a picture"),
        (b"x" * (33 << 20), "more than 32 MB"),
        ("none.png", "none.png is no file"),
        (Path("/dev/zero"), "is no file"),
        ("http://127.0.0.1:9/a.png", "not fetched"),
        ("data:image/png;base64,a===b", "no valid base64"),
        (Image.new("L", (9000, 9000)), "at most 64,000,000"),
        (3, r"messages\[0\].content\[0\]: a picture is a path"),
    ],
)
def test_what_is_no_picture_is_refused(llm: LLM, image: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        llm.chat(conversation(image), **ASK)


def test_parts_that_are_none_are_refused(llm: LLM) -> None:
    for content in ([{"type": "text"}], [{"type": "sound", "sound": b""}], ["hello"], {"type": "text"}, None):
        with pytest.raises(InvalidRequest, match=r"messages\[0\]"):
            llm.chat([{"role": "user", "content": content}])


def test_texts_alone_where_no_vision_part_is_wanted(seen: SeenPrompt, files: list[Path]) -> None:
    with shoal.LLM(seen.model, split="1", threads=1, vision_split=None) as texts:
        assert not texts.takes_pictures
        assert texts.chat(conversation(), max_tokens=4).text
        with pytest.raises(InvalidRequest, match="takes text only"):
            texts.chat(conversation(files[0]))
    with pytest.raises(ConfigError, match="is for models in GGUF files"):
        shoal.LLM(seen.directory, split="1", mmproj=seen.model)


def test_run_answers_pictures_and_chats_about_them(seen: SeenPrompt, llm: LLM, files: list[Path]) -> None:
    expected = llm.chat(conversation(*files), max_tokens=12).text
    shown = [option for file in files for option in ("--image", str(file))]
    once = _run(seen.model, *shown, "--prompt", TEXT, "--max-tokens", "12")
    assert once.returncode == 0, once.stderr
    assert once.stdout == f"{expected}\n"
    lines = f"/image {files[0]}\n/image none.png\n/image {files[1]}\n{TEXT}\n"
    chat = _run(seen.model, "--chat", "--max-tokens", "12", given=lines)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout == f"{expected}\n"
    assert "none.png is no file" in chat.stderr
    broken = files[0].with_name("broken.png")
    broken.write_bytes(files[0].read_bytes()[:200])
    refused = _run(seen.model, "--image", str(broken), "--prompt", TEXT)
    assert refused.returncode != 0
    assert "truncated" in refused.stderr


def _run(model: Path, *options: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal", "run", str(model), "--split", "1", "--threads", "1", *options]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

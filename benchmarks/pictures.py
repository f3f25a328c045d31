"""What pictures take: memory of all processes, processor time and seconds, from the start to the largest and the worst.

    python benchmarks/pictures.py [--depth 4] [--split 1] [--vision-split 1]

The model is random: Qwen2.5-VL's vision part as wide as the published one, of `--depth` layers, over a small language
model. Processor time is that of all processes; seconds are those of a client, and read only where nothing else runs.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image
from processes import SHOAL, free_port, running
from report import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.memory import memory_of_children, watched
from tests.model.tiny_models import VOCAB_SIZE
from tests.model.tiny_vision import make_tiny_vision
from tests.model.vision.test_pixels import bomb

MEGA = 1e6
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    what: str
    answer: str
    seconds: float
    cpu_s: float
    pss: float
    peak: float

    def line(self) -> str:
        """As Markdown."""
        return (
            f"| {self.what} | {self.answer} | {self.seconds:.1f} | {self.cpu_s:.1f} "
            f"| {self.pss / MEGA:.0f} | {self.peak / MEGA:.0f} |"
        )


def make_model(folder: Path, depth: int) -> Path:
    """The tiny model of the tests with a vision part of real width, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    make_tiny_vision("qwen2_5_vl", folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {
        "depth": depth,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "window_size": 112,
        "fullatt_block_indexes": [depth - 1],
    }
    config["text_config"] |= {"vocab_size": VOCAB_SIZE + 3, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Qwen2VLImageProcessor"}))
    return folder


@contextmanager
def serving(model: Path, split: str, vision_split: str) -> Iterator[str]:
    """The model's address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ("--split", split, "--vision-split", vision_split, "--name", "m", "--port", str(port), "--no-access-log")
    with running([*SHOAL, "serve", str(model), *options], health_url=f"{url}/ready"):
        yield url


def cpu_s() -> float:
    """Of all processes that this one has started and that still run."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def png(height: int, width: int, seed: int = 0) -> bytes:
    """A picture of colored blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 64), -(-width // 64), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(64, 0).repeat(64, 1)[:height, :width]).save(file, "PNG", compress_level=1)
    return file.getvalue()


def ask(url: str, *files: bytes) -> str:
    """What comes of pictures."""
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(file).decode()}}
        for file in files
    ]
    content = [*parts, {"type": "text", "text": "What is that?"}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 1, "ignore_eos": True}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=_TIMEOUT_S)
    fields = answer.json()
    return f"{fields['usage']['prompt_tokens']} rows" if answer.is_success else f"{answer.status_code}"


def measure(url: str, what: str, *calls: tuple[bytes, ...]) -> Row:
    """Calls at once."""
    before_s, started_s = cpu_s(), time.perf_counter()
    threads = ThreadPoolExecutor(len(calls))
    with watched(is_thorough=True) as peak:
        try:
            answers = [*threads.map(lambda files: ask(url, *files), calls)]
        finally:
            threads.shutdown(wait=False)  # a script that is terminated ends the server, and with it all calls
    seconds = time.perf_counter() - started_s
    told = ", ".join(sorted(set(answers)))
    peak.look()
    row = Row(what, told, seconds, cpu_s() - before_s, memory_of_children().pss_bytes, peak.memory.pss_bytes)
    print(row.line(), flush=True)
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--split", default="1")
    parser.add_argument("--vision-split", default="1")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), said.depth)
        rows = [_start(model, said, "start, the vision part's graph is built")]
        with serving(model, said.split, said.vision_split) as url:
            memory = memory_of_children().pss_bytes
            rows.append(Row("start, the graph is there", "", 0.0, cpu_s(), memory, memory))
            photo, largest = png(427, 640), png(8000, 8000)
            rows += [
                measure(url, "no picture", ()),
                measure(url, "640 x 427", (photo,)),
                measure(url, "the same again", (photo,)),
                measure(url, "1 x 1", (png(1, 1),)),
                measure(url, "8000 x 8000, the largest", (largest,)),
                measure(url, "four of these at once", *[(png(8000, 8000, seed),) for seed in range(1, 5)]),
                measure(url, "20000 x 20000 of 1 MB", (bomb(20_000),)),
                measure(url, "four of these at once", *[(bomb(20_000),)] * 4),
                measure(url, "no picture", ()),
            ]
    head = ["| what | answer | s | processor s | MB then | MB at most |", "|---|---|---|---|---|---|"]
    flags = f"--depth {said.depth} --split {said.split} --vision-split {said.vision_split}"
    print(
        write_result(
            "pictures", [*head, *[row.line() for row in rows]], command=f"python benchmarks/pictures.py {flags}"
        )
    )


def _start(model: Path, said: argparse.Namespace, what: str) -> Row:
    with watched(is_thorough=True) as peak, serving(model, said.split, said.vision_split):
        memory = memory_of_children().pss_bytes
        return Row(what, "", 0.0, cpu_s(), memory, peak.memory.pss_bytes)


if __name__ == "__main__":
    main()

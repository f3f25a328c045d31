"""A model that sees over several hosts: its vision part sits on a host of its own, which goes away and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.model.tiny_vision import data_url, make_tiny_vision, picture
from tests.ray.hosts import RayHosts
from tests.ray.serving import Server, served

WORKER = "shoal.worker.remote_main"


def chat(seed: int) -> list[dict[str, Any]]:
    shown = {"type": "image_url", "image_url": {"url": data_url(picture(seed))}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": "What swims there?"}]}]


def answers(cluster: RayHosts, server: Server, seeds: range, folder: Path) -> list[str]:
    """By clients on the first host; pictures that nobody has sent before have to be computed."""
    file = folder / "chats.json"
    file.write_text(json.dumps([chat(seed) for seed in seeds]))
    program = (sys.executable, "-m", "tests.ray.clients.pictures", server.url, str(file))
    done = subprocess.run(cluster.hosts[0].command(*program), capture_output=True, text=True, timeout=120.0)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_pictures_are_computed_elsewhere_while_their_host_is_away(cluster: RayHosts, tmp_path: Path) -> None:
    model = make_tiny_vision("qwen3_vl", tmp_path / "seen")
    with shoal.LLM(model, split="1", threads=1, precision="fp32") as llm:
        expected = [llm.chat(chat(seed), max_tokens=12, ignore_eos=True).text for seed in range(9)]
    away = cluster.hosts[2]
    with served(cluster, model, "pp=2", "--threads", "1") as server:
        assert [len(host.processes(WORKER)) for host in cluster.hosts] == [1, 1, 1]
        assert answers(cluster, server, range(3), tmp_path) == expected[:3]
        told = len(server.lines)
        away.set_link(False)
        try:
            assert answers(cluster, server, range(3, 6), tmp_path) == expected[3:6]
            server.wait_for_match(rf"replica 0 continues on \S+: replica 0 stage 0 on {away.address} .*", told)
        finally:
            away.set_link(True)
        server.wait_for_match(rf"replica 0 is given back its workers on {away.address}", told)
        server.wait_for_match("vision: replica 0 continues with new workers", told)
        assert answers(cluster, server, range(6, 9), tmp_path) == expected[6:]

"""What a language model's processes import: what they do not need costs time at every start, and memory."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from shoal.executor.process.child_process import module_command
from shoal.model.attention.paged_attention import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="without the extension, decoders run in ONNX Runtime")
DEADLINE_S = 250.0
IMPORT = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
"""Source: Python's documentation of PYTHONPROFILEIMPORTTIME"""
FOREIGN = {
    "onnxruntime",
    "onnx",
    "scipy",
    "gguf",
    "google",
    "ml_dtypes",
    "yaml",
    "torch",
    "transformers",
    "ray",
    "pydantic",
}
"""for ONNX graphs, planning, files of other formats, other devices and servers"""
OWN = re.compile(
    r"shoal\.(model\.graph|offline|planner\.search|launch\.language\.auto_plan|measure\.(language|graph)|machines\.ray)\b"
)
"""of Shoal itself, for ONNX graphs and for planning that measures"""


def imported(model: Path, split: str) -> set[str]:
    """The modules that one answer took, over all its processes."""
    arguments = ("run", str(model), "--prompt", "x", "--split", split, "--max-tokens", "2", "--json")
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    command = module_command("shoal.cli.main", *arguments)
    done = subprocess.run(command, env=environment, timeout=DEADLINE_S, check=True, capture_output=True, text=True)
    return set(IMPORT.findall(done.stderr))


@pytest.mark.parametrize(
    ("split", "own"),
    [("1", {"shoal.launch.in_process"}), ("pp=2", {"shoal.executor.local_launcher", "shoal.worker.life"})],
    ids=["in-process", "workers"],
)
def test_an_answer_needs_nothing_of_other_kinds_of_work(model: Path, split: str, own: set[str]) -> None:
    modules = imported(model, split)
    assert modules >= {"shoal.cli.run", "shoal.model.decoder.native.native_layers", *own}
    assert not {name for name in modules if name.partition(".")[0] in FOREIGN or OWN.match(name)}


def test_choosing_a_split_by_what_was_measured_builds_no_graph(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    imported(model, "auto")  # which measures the machine
    modules = imported(model, "auto")
    assert "shoal.launch.language.auto_plan" in modules
    assert not {name.partition(".")[0] for name in modules} & (FOREIGN - {"ml_dtypes"})


def test_the_head_of_workers_computes_nothing(model: Path, tmp_path: Path) -> None:
    """Neither the layers nor the tokenizers of other formats are imported where a process only sends tokens."""
    script = tmp_path / "head.py"
    script.write_text("import sys\nimport shoal.launch.worker_launch\nprint(*sys.modules)")
    command = [*module_command("shoal.cli.main")[:2], str(script)]
    done = subprocess.run(command, timeout=DEADLINE_S, check=True, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "shoal.executor.local_launcher" in modules
    assert modules.isdisjoint({"shoal.model.decoder.stage", "shoal.model.decoder.onnx.onnx_layers", "google.protobuf"})


@pytest.mark.parametrize("module", ["shoal.cli.language.serve", "shoal.api.speech"])
def test_a_server_of_texts_and_sound_needs_no_graphs(tmp_path: Path, module: str) -> None:
    script = tmp_path / "server.py"
    script.write_text(f"import sys\nimport {module}\nprint(*sys.modules)")
    command = [*module_command("shoal.cli.main")[:2], str(script)]
    done = subprocess.run(command, timeout=DEADLINE_S, check=True, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert module in modules
    assert modules.isdisjoint(FOREIGN - {"pydantic"})

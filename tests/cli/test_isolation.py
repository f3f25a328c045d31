"""A command imports nothing from the current folder, keeps nothing but its own cache, asks nothing of the network."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shoal.executor.process.child_process import module_command

DEADLINE_S = 250.0
STRACE = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", "trace")
has_strace = shutil.which("strace") is not None


@pytest.fixture(scope="module")
def home(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home and current folder of a user who answered a prompt over two workers and set no variable of others'."""
    home = tmp_path_factory.mktemp("home")
    for name in ("msgspec", "numpy", "queue", "onnxruntime"):
        (home / f"{name}.py").write_text("open('taken', 'w')")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    arguments = ("run", str(model), "--prompt", "x", "--split", "pp=2", "--max-tokens", "2", "--json")
    command = [*(STRACE if has_strace else ()), *module_command("shoal.cli.main", *arguments)]
    subprocess.run(command, cwd=home, env=environment, timeout=DEADLINE_S, check=True, capture_output=True)
    return home


def test_workers_ignore_modules_in_the_current_folder(home: Path) -> None:
    assert not (home / "taken").exists()


def test_nothing_is_kept_but_our_own_cache(home: Path) -> None:
    kept = {path.relative_to(home) for path in home.rglob("*") if path.is_dir()}
    assert all(path == Path("cache") or path.is_relative_to("cache/shoal") for path in kept), kept


@pytest.mark.skipif(not has_strace, reason="strace is not installed")
def test_nothing_is_asked_of_the_network(home: Path) -> None:
    calls = (home / "trace").read_text()
    assert "sendmsg" in calls, "strace saw no link between processes"
    assert "AF_INET" not in calls

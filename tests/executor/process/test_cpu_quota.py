"""CPU quotas: arithmetic everywhere, control groups where this user may make some."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shoal.errors import ConfigError
from shoal.executor.process.cpu_quota import held, quota_and_period_us, why_not

needs_groups = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def groups_here() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob("**/shoal-quota-*"))


def group_lines(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize(
    ("cores", "quota_us", "period_us"),
    [(0.5, 10_000, 20_000), (1.5, 30_000, 20_000), (0.01, 1_000, 100_000), (1e-9, 1_000, 1_000_000)],
)
def test_quota_and_period_stay_within_the_kernels_limits(cores, quota_us, period_us):
    assert quota_and_period_us(cores) == (quota_us, period_us)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match="quota"), held(os.getpid(), share):
        pass


def test_all_of_the_cores_needs_no_group(sleeper):
    before = group_lines(sleeper.pid)
    with held(sleeper.pid, 1.0):
        assert group_lines(sleeper.pid) == before


@needs_groups
def test_a_process_is_in_a_group_of_its_own_and_comes_back(sleeper):
    before = group_lines(sleeper.pid)
    with held(sleeper.pid, 0.5, num_cores=2):
        assert "shoal-quota-" in group_lines(sleeper.pid)
        (group,) = [one for one in groups_here() if str(sleeper.pid) in (one / "cgroup.procs").read_text().split()]
        limits = group / "cpu.max"
        quota = limits.read_text().split()[0] if limits.exists() else (group / "cpu.cfs_quota_us").read_text().strip()
        assert quota == "20000"
    assert group_lines(sleeper.pid) == before
    assert not group.exists()


@needs_groups
def test_the_group_of_a_killed_process_is_removed(sleeper):
    before = set(groups_here())
    with held(sleeper.pid, 0.5):
        assert set(groups_here()) - before
        sleeper.send_signal(signal.SIGKILL)
    assert set(groups_here()) == before


@needs_groups
def test_two_processes_are_held_apart(sleeper):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with held(sleeper.pid, 0.5), held(other.pid, 0.25):
            assert group_lines(sleeper.pid) != group_lines(other.pid)
    finally:
        other.kill()
        other.wait()


@needs_groups
def test_what_a_killed_holder_left_behind_is_removed_by_the_next(sleeper):
    """The holder dies with the group in place; its process lives on in it until the next one comes."""
    holder = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys\n"
            "from shoal.executor.process.cpu_quota import held\n"
            "with held(int(sys.argv[1]), 0.5):\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n",
            str(sleeper.pid),
        ],
        check=False,
    )
    assert holder.returncode == -signal.SIGKILL
    assert "shoal-quota-" in group_lines(sleeper.pid)
    with held(psutil.Process().pid, 0.9):
        assert "shoal-quota-" not in group_lines(sleeper.pid)
    assert "shoal-quota-" not in group_lines(os.getpid())


@needs_groups
def test_a_process_that_is_gone_is_named():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    before = set(groups_here())
    with pytest.raises(ProcessLookupError, match=str(process.pid)), held(process.pid, 0.5):
        pass
    assert set(groups_here()) == before

"""Limits of control groups, of both versions, as containers and services have them. The trees are made up."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from shoal.measure.free_memory import free_memory_bytes

MIB, GIB = 1 << 20, 1 << 30
NO_LIMIT_V1 = "9223372036854771712"
"""Source: PAGE_COUNTER_MAX of the kernel, in bytes."""


@pytest.fixture(autouse=True)
def _computer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 64 GiB, of which 60 are free."""

    class Memory:
        available, total = 60 * GIB, 64 * GIB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)


class Tree:
    """A made-up procfs and the hierarchy that its process lies in."""

    def __init__(self, folder: Path, *, version: int, path: str, mounted: str = "/") -> None:
        self.proc, self.mount, self._version = folder / "proc", folder / "cgroup", version
        process = self.proc / "self"
        process.mkdir(parents=True)
        self.mount.mkdir()
        if version == 2:
            (process / "cgroup").write_text(f"0::{path}\n")
            kind = "cgroup2 cgroup2 rw,nsdelegate"
        else:
            (process / "cgroup").write_text(f"7:memory:{path}\n5:cpu,cpuacct:/elsewhere\n0::/\n")
            kind = "cgroup cgroup rw,memory"
        others = "22 1 0:20 / /proc rw - proc proc rw\n25 30 0:24 / /none rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        (process / "mountinfo").write_text(f"{others}31 23 0:27 {mounted} {self.mount} rw,nosuid - {kind}\n")

    def group(self, path: str, *, limit: int | str, usage: int, file_bytes: int = 0) -> None:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        limits, usages, prefix = ("memory.max", "memory.current", "")
        if self._version == 1:
            limits, usages, prefix = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        (folder / limits).write_text(f"{limit}\n")
        (folder / usages).write_text(f"{usage}\n")
        half = file_bytes // 2
        (folder / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file {half}\n{prefix}active_file {half}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(version: int, tmp_path: Path) -> None:
    tree = Tree(tmp_path, version=version, path="/")
    tree.group("", limit=2 * GIB, usage=512 * MIB)
    assert free_memory_bytes(tree.proc) == 2 * GIB - 512 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_pages_of_files_are_as_good_as_free(version: int, tmp_path: Path) -> None:
    tree = Tree(tmp_path, version=version, path="/")
    tree.group("", limit=2 * GIB, usage=1536 * MIB, file_bytes=1024 * MIB)
    assert free_memory_bytes(tree.proc) == 2 * GIB - 512 * MIB


@pytest.mark.parametrize(("version", "no_limit"), [(1, NO_LIMIT_V1), (2, "max")])
def test_the_tightest_ancestor_counts(version: int, no_limit: str, tmp_path: Path) -> None:
    """A service without a limit of its own in a slice that has one, which others use, too."""
    tree = Tree(tmp_path, version=version, path="/user.slice/shoal.service")
    tree.group("user.slice", limit=8 * GIB, usage=5 * GIB)
    tree.group("user.slice/shoal.service", limit=no_limit, usage=GIB)
    assert free_memory_bytes(tree.proc) == 3 * GIB
    tree.group("user.slice/shoal.service", limit=2 * GIB, usage=GIB)
    assert free_memory_bytes(tree.proc) == GIB


def test_a_container_that_sees_its_path_on_the_host(tmp_path: Path) -> None:
    """Docker with version 1: the process's path is the host's, what is mounted is the container's own group."""
    tree = Tree(tmp_path, version=1, path="/docker/0123/inner", mounted="/docker/0123")
    tree.group("", limit=GIB, usage=0)
    assert free_memory_bytes(tree.proc) == GIB
    tree.group("inner", limit=GIB // 2, usage=0)
    assert free_memory_bytes(tree.proc) == GIB // 2


def test_no_limit_and_no_groups_leave_what_the_computer_has(tmp_path: Path) -> None:
    tree = Tree(tmp_path, version=2, path="/")
    tree.group("", limit="max", usage=GIB)
    assert free_memory_bytes(tree.proc) == 60 * GIB
    assert free_memory_bytes(tmp_path / "nothing") == 60 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path, version=2, path="/")
    tree.group("", limit=GIB, usage=2 * GIB)
    assert free_memory_bytes(tree.proc) == 0

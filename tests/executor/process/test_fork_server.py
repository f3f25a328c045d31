"""Workers that are forked: their ends are told as those of any child, and a fault of their server is a loss."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from shoal.errors import WorkerLost
from shoal.executor.process import fork_server
from shoal.executor.process.fork_server import GRAPH_WORKER, LANGUAGE_WORKER
from shoal.executor.process.living_workers import worker_processes
from shoal.executor.process.worker_process import WorkerProcess
from shoal.protocol.codec import encode
from shoal.protocol.worker_messages import Shutdown
from tests.integration.served import wait_until

WAIT_S = 60.0


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[fork_server._ForkServers]:
    """Fork servers of a test's own, which it may break."""
    own = fork_server._ForkServers()
    monkeypatch.setattr(fork_server, "_servers", own)
    monkeypatch.setattr(fork_server, "_ANSWER_TIMEOUT_S", WAIT_S)
    yield own
    own._close()


def start_worker() -> WorkerProcess:
    return WorkerProcess("replica 1 stage 2", ("json",))


def listed(worker: WorkerProcess) -> str:
    """What `ps` shows of it."""
    return " ".join(psutil.Process(worker.pid).cmdline()).rstrip()


def server_of(worker: WorkerProcess) -> psutil.Process:
    parent = psutil.Process(worker.pid).parent()
    assert parent is not None
    assert "shoal.worker.process.fork_server" in parent.cmdline()
    return parent


def test_workers_come_from_one_server_and_are_told_apart_from_it(servers: fork_server._ForkServers) -> None:
    first, second = start_worker(), start_worker()
    try:
        assert server_of(first) == server_of(second)
        assert {first.pid, second.pid} <= {one.pid for one in worker_processes(psutil.Process())}
        assert server_of(first).pid not in {one.pid for one in worker_processes(psutil.Process())}
        wait_until(lambda: os.getsid(first.pid) == first.pid)  # the first thing that a fork does
    finally:
        for worker in (first, second):
            worker.close(time.monotonic())


def test_the_list_of_processes_tells_which_worker_one_is() -> None:
    workers = [start_worker(), WorkerProcess("replica 1 stage 3" + 100 * " far away", ("json",))]
    try:
        wait_until(lambda: all(psutil.Process(worker.pid).name() == "shoal-worker" for worker in workers))
        wait_until(lambda: all(listed(worker).startswith("shoal-worker replica 1 stage ") for worker in workers))
        short, long = map(listed, workers)
        assert short == "shoal-worker replica 1 stage 2"
        assert long.startswith("shoal-worker replica 1 stage 3 far away")
        assert "shoal.worker.process.fork_server" in server_of(workers[0]).cmdline()
    finally:
        for worker in workers:
            worker.close(time.monotonic())


@pytest.mark.parametrize("modules", [LANGUAGE_WORKER, GRAPH_WORKER])
def test_a_server_has_one_thread(modules: Sequence[str]) -> None:
    """What it imports starts none: a fork would be without them, and with their locks."""
    assert all(map(find_spec, modules))
    worker = WorkerProcess("replica 1 stage 2", modules)
    try:
        imported = Path(f"/proc/{worker.pid}/maps").read_text()
        assert ("onnxruntime" in imported) == (modules == GRAPH_WORKER)
        assert server_of(worker).num_threads() == 1
    finally:
        worker.close(time.monotonic())


def test_what_is_expected_is_imported_by_the_server_that_workers_come_from(
    servers: fork_server._ForkServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "waits_for_nobody.py").write_text("import ctypes\nctypes.CDLL(None).prctl(15, b'expected', 0, 0, 0)\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    servers.expect(("waits_for_nobody",))  # which gives the server's process another name
    worker = start_worker()
    try:
        assert server_of(worker).pid == servers.current().pid
        assert Path(f"/proc/{servers.current().pid}/comm").read_text() == "expected\n"
    finally:
        worker.close(time.monotonic())


def test_a_worker_ends_by_itself(servers: fork_server._ForkServers) -> None:
    worker = start_worker()
    worker.send(encode(Shutdown()))  # in the place of what it is to load
    worker._child._process.wait(WAIT_S)
    with pytest.raises(WorkerLost, match=rf"replica 1 stage 2 \(pid {worker.pid}\) exited with status 1"):
        worker.receive(WAIT_S)
    worker.close(time.monotonic() + WAIT_S)
    assert not psutil.pid_exists(worker.pid)


def test_a_kill_is_told_with_its_signal() -> None:
    worker = start_worker()
    os.kill(worker.pid, signal.SIGSEGV)
    worker._child._process.wait(WAIT_S)
    with pytest.raises(WorkerLost, match="killed by signal 11"):
        worker.receive(WAIT_S)
    assert worker.was_killed
    worker.close(time.monotonic())


def test_one_that_does_not_listen_is_killed() -> None:
    worker = start_worker()
    os.kill(worker.pid, signal.SIGSTOP)
    worker.close(time.monotonic())
    assert worker.was_killed
    assert worker.kill()


def test_workers_of_a_killed_server_are_lost_and_others_come_from_another() -> None:
    lost = start_worker()
    server = server_of(lost)
    server.kill()
    lost._child._process.wait(WAIT_S)
    with pytest.raises(WorkerLost, match="killed by signal 9"):
        lost.receive(WAIT_S)
    lost.close(time.monotonic())
    other = start_worker()
    try:
        assert server_of(other) != server
    finally:
        other.close(time.monotonic())


def test_a_stopped_server_is_passed_by_and_makes_no_worker_later(
    servers: fork_server._ForkServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_ANSWER_TIMEOUT_S", 0.5)
    stopped = servers.current()
    os.kill(stopped.pid, signal.SIGSTOP)
    worker = start_worker()
    try:
        assert psutil.Process(worker.pid).ppid() != stopped.pid
        stopped._requests.shutdown(socket.SHUT_WR)  # it ends once it has read what it was asked
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped._process.wait(WAIT_S) == 0
        worker.send(encode(Shutdown()))
        assert worker._child._process.wait(WAIT_S) == 1  # nobody else has read it
    finally:
        worker.close(time.monotonic())


@pytest.mark.parametrize("program", ["raise OSError", "import os; os.abort()"])
def test_where_nothing_can_be_forked_a_worker_is_started(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "start_module", lambda *_: subprocess.Popen([sys.executable, "-c", program]))
    worker = start_worker()
    try:
        assert psutil.Process(worker.pid).ppid() == os.getpid()
    finally:
        worker.close(time.monotonic())


def test_another_environment_is_another_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = start_worker()
    monkeypatch.setenv("SHOAL_TEST_WORD", "tide")
    second = start_worker()
    monkeypatch.chdir(tmp_path)
    third = start_worker()
    workers = (first, second, third)
    try:
        assert len({server_of(worker) for worker in workers}) == 3
        words = [psutil.Process(worker.pid).environ().get("SHOAL_TEST_WORD") for worker in workers]
        assert words == [None, "tide", "tide"]
        assert psutil.Process(third.pid).cwd() == str(tmp_path)
    finally:
        for worker in workers:
            worker.close(time.monotonic())


def test_a_server_ends_with_its_head() -> None:
    program = (
        "import os, signal\n"
        "from shoal.executor.process.worker_process import WorkerProcess\n"
        "print(WorkerProcess('worker', ()).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S)
    worker = int(done.stdout)
    deadline_s = time.monotonic() + WAIT_S
    while psutil.pid_exists(worker) and time.monotonic() < deadline_s:
        pass
    assert not psutil.pid_exists(worker)

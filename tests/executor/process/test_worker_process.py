"""A worker as a child process, seen from the head: every way it can end has its own clear error."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shoal.errors import CapacityError, ModelLoadError, WorkerCrashed, WorkerLost
from shoal.executor.process.child_process import ChildProcess, start_module
from shoal.executor.process.worker import close_all
from shoal.executor.process.worker_process import WorkerProcess
from shoal.protocol.codec import Message, encode
from shoal.protocol.worker_messages import Generation, Progress, StageFailed

WAIT_S = 60.0


@contextmanager
def worker_that(program: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """A child that runs `program` instead of a worker; `link` is its socket to the head."""
    prelude = (
        "import os, signal, socket, struct, sys\n"
        "link = socket.socket(fileno=int(sys.argv[sys.argv.index('--control') + 1]))\n"
        "def say(payload): link.sendall(struct.pack('<I', len(payload)) + payload)\n"
    )
    real = __import__("subprocess").Popen

    def start(command: list[str], **options: object) -> object:
        return real([sys.executable, "-c", prelude + program, *command[3:]], **options)

    monkeypatch.setattr("subprocess.Popen", start)
    worker = WorkerProcess("replica 1 stage 2", (), sys.executable)
    try:
        yield worker
    finally:
        worker.close(time.monotonic())


def saying(message: Message) -> str:
    return f"say({encode(message)!r})\n"


def test_messages_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_that(saying(Progress(done=1, total=2)) + "link.recv(1)", monkeypatch) as worker:
        assert worker.receive(WAIT_S) == Progress(done=1, total=2)
        assert worker.receive(0.0) is None


def test_a_crash_is_told_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_that("sys.exit(7)", monkeypatch) as worker:
        with pytest.raises(WorkerLost) as lost:
            worker.receive(WAIT_S)
        assert str(lost.value) == f"replica 1 stage 2 (pid {worker.pid}) exited with status 7"


def test_a_kill_is_told_with_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        worker_that("os.kill(os.getpid(), signal.SIGSEGV)", monkeypatch) as worker,
        pytest.raises(WorkerLost, match="killed by signal 11"),
    ):
        worker.receive(WAIT_S)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ModelLoadError", ModelLoadError),
        ("CapacityError", CapacityError),
        ("ValueError", WorkerLost),
        ("no such", WorkerLost),
    ],
)
def test_a_failure_becomes_the_error_it_names(
    name: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = StageFailed(generation=Generation(0), error=name, message="the reason")
    with worker_that(saying(failed), monkeypatch) as worker, pytest.raises(expected, match="stage 2: the reason"):
        worker.receive(WAIT_S)


def test_the_reason_is_told_even_if_the_head_was_about_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = StageFailed(generation=Generation(0), error="ValueError", message="the reason")
    with worker_that(saying(failed), monkeypatch) as worker:
        worker._child._process.wait(WAIT_S)
        with pytest.raises(WorkerLost, match="the reason"):
            worker.send(b"step")


def test_nonsense_counts_as_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        worker_that("say(b'nonsense')", monkeypatch) as worker,
        pytest.raises(WorkerLost, match="cannot be understood"),
    ):
        worker.receive(WAIT_S)


def test_closing_ends_a_worker_that_does_not_listen_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.executor.process.worker._EXIT_GRACE_S", 0.05)
    program = saying(Progress(done=1, total=1)) + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()"
    with worker_that(program, monkeypatch) as worker:
        assert worker.receive(WAIT_S) is not None
        close_all([worker])
        close_all([worker])
        assert worker._child._process.returncode == -9


def test_closing_lets_a_worker_end_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_that("sys.exit(len(link.recv(100)) % 2 + 3)", monkeypatch) as worker:
        worker.ask_to_end()
        worker.close(time.monotonic() + WAIT_S)
        assert worker._child._process.returncode in (3, 4)


@pytest.mark.parametrize(
    ("number", "is_crash"), [(signal.SIGSEGV, True), (signal.SIGABRT, True), (signal.SIGKILL, False), (15, False)]
)
def test_a_process_that_ends_itself_is_told_from_one_that_is_ended(number: int, is_crash: bool) -> None:
    process = start_module("timeit", ["-n1", "-r1", f"import os; os.kill(os.getpid(), {int(number)})"], [])
    child = ChildProcess("worker", process)
    child.end(time.monotonic() + 30)
    lost = child.lost(WorkerLost("link closed"))
    assert isinstance(lost, WorkerCrashed) == is_crash
    assert f"killed by signal {int(number)}" in str(lost)

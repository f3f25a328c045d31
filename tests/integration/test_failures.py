"""Workers that die, heads that die, models that break while they load: a clear error, and nothing stays behind."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shoal.errors import CapacityError, ModelLoadError, WorkerLost
from shoal.executor.process.living_workers import worker_processes
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import LoadedModel, launch
from tests.integration.running import (
    EXIT_S,
    PATIENT,
    Transcript,
    executors,
    has_ended,
    kill,
    launch_tiny,
    make_requests,
    tiny_config,
    transcribe,
)
from tests.model.tiny_models import make_tiny_gguf, tiny_llama_tensors, write_gguf

NO_RESTART = PATIENT.without_restart()


@pytest.mark.parametrize("stage", [0, 1])
def test_a_killed_worker_of_the_only_replica_is_named(stage: int, tiny_model: Path) -> None:
    with launch_tiny(tiny_model, split="pp=2", recovery=NO_RESTART) as loaded:
        pids = executors(loaded)[0].worker_pids()
        for request in make_requests(3, max_tokens=200):
            loaded.engine.add(request)
        transcript = Transcript()
        transcript.follow(loaded.engine, lambda: len(transcript.tokens.get("request-0", ())) >= 3)
        kill(pids[stage])
        with pytest.raises(WorkerLost) as lost:
            transcript.finish(loaded.engine)
        with pytest.raises(CapacityError):
            loaded.engine.add(make_requests(1)[0])
    assert str(lost.value) == f"replica 0 stage {stage} (pid {pids[stage]}) killed by signal {signal.SIGKILL}"


@pytest.mark.parametrize("split", ["dp=2", "dp=2,pp=2"])
def test_the_other_replica_takes_over(split: str, tiny_model: Path, unsplit: LoadedModel) -> None:
    requests = make_requests(4, max_tokens=60)
    expected = transcribe(unsplit.engine, requests)
    with launch_tiny(tiny_model, split=split, recovery=NO_RESTART) as loaded:
        for request in requests:
            loaded.engine.add(request)
        transcript = Transcript()
        transcript.follow(loaded.engine, lambda: len(transcript.tokens) == len(requests))
        kill(executors(loaded)[1].worker_pids()[-1])
        transcript.finish(loaded.engine)
        assert loaded.engine.stats().num_replicas == 1
        assert 0 < loaded.engine.stats().num_replays < len(requests)
        again = transcribe(loaded.engine, requests)
    assert transcript.tokens == again.tokens == expected.tokens
    assert {end.reason for end in transcript.ends.values()} == {"length"}


def test_workers_that_can_never_be_loaded_again_end_it(tmp_path: Path, told: list[str]) -> None:
    """Each failure in a row is told, then the last one is raised."""
    path = make_tiny_gguf(tmp_path, quant="F32")
    recovery = replace(PATIENT, max_failures=3, crash_loop_s=0.0, backoff_s=0.01)
    with launch(plan_model(tiny_config(path, split="pp=2")), recovery=recovery) as loaded:
        loaded.engine.add(make_requests(1)[0])
        path.rename(tmp_path / "elsewhere.gguf")
        kill(executors(loaded)[0].worker_pids()[0])
        with pytest.raises(WorkerLost, match=r"3 failures in a row.*tiny-F32\.gguf"):
            Transcript().finish(loaded.engine)
    assert ["is lost" in line for line in told] == [True, True, True, False]
    assert "is given up" in told[-1]


HEAD = """
import sys
from pathlib import Path
from tests.integration.running import executors, launch_tiny
loaded = launch_tiny(Path(sys.argv[1]), split="pp=2")
print(*executors(loaded)[0].worker_pids(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("hang", [False, True], ids=["idle workers", "workers that hang"])
def test_workers_end_when_their_head_is_killed(hang: bool, tiny_model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEAD, str(tiny_model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as head:
        assert head.stdout is not None
        pids = [int(pid) for pid in head.stdout.readline().split()]
        handles = [os.pidfd_open(pid) for pid in pids]
        for pid in pids if hang else ():
            os.kill(pid, signal.SIGSTOP)
        head.kill()
        head.wait(EXIT_S)
        ended = [has_ended(handle) for handle in handles]
        for handle, has in zip(handles, ended, strict=True):
            if not has:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
    assert ended == [True, True]


def test_a_file_truncated_after_planning(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path, quant="F32")
    planned = plan_model(tiny_config(path, split="pp=2"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"tiny-F32\.gguf"):
        launch(planned)


def test_weights_of_two_files_are_never_mixed(tmp_path: Path, told: list[str]) -> None:
    """Two models of one shape, the second moved over the first while it is served, as an update does; then one of two
    stages dies. Its successor would read the second model."""
    path = make_tiny_gguf(tmp_path / "live", quant="F32", seed=0)
    with launch(plan_model(tiny_config(path, split="pp=2")), recovery=PATIENT) as loaded:
        make_tiny_gguf(tmp_path / "update", quant="F32", seed=1).replace(path)
        (executor,) = executors(loaded)
        kill(executor.worker_pids()[1])
        with pytest.raises(WorkerLost, match="has changed since the server started; start it again"):
            Transcript().follow(loaded.engine, lambda: False)
        assert loaded.engine.stats().num_losses == 2
    assert "has its workers again" not in " ".join(told)


def test_a_file_removed_after_planning(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path, quant="F32")
    planned = plan_model(tiny_config(path, split="dp=2"))
    path.rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(ModelLoadError, match=r"tiny-F32.gguf"):
        launch(planned)


@pytest.mark.parametrize("split", ["1", "pp=2", "dp=2"])
def test_a_missing_norm_is_named(split: str, tmp_path: Path) -> None:
    """Every tensor is looked for when the file is opened, so that no worker starts in vain."""
    tensors = {name: values for name, values in tiny_llama_tensors().items() if name != "blk.3.ffn_norm.weight"}
    path = write_gguf(tmp_path / "holed.gguf", "llama", tensors)
    with pytest.raises(ModelLoadError, match=r"holed\.gguf.*'blk\.3\.ffn_norm\.weight'"):
        plan_model(tiny_config(path, split=split))


def test_a_failure_in_the_head_ends_the_workers_that_have_started(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelLoadError("no engine")

    monkeypatch.setattr("shoal.launch.worker_launch.Engine", fail)
    with pytest.raises(ModelLoadError, match="no engine"):
        launch(plan_model(tiny_config(tiny_model, split="pp=2")))


def test_a_worker_killed_while_loading(tiny_model: Path) -> None:
    """Killed at the first sign of progress. Only the first start is sure to report one: segments count once."""
    planned = plan_model(tiny_config(tiny_model, split="pp=2"))

    def kill_all(done: int, total: int) -> None:
        for child in worker_processes(psutil.Process()):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):  # an earlier call has killed it
                if child.status() != psutil.STATUS_ZOMBIE:
                    kill(child.pid)

    with pytest.raises(WorkerLost, match="killed by signal 9"):
        launch(planned, kill_all, recovery=replace(PATIENT, replan_after=1))

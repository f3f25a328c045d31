"""Functions in processes of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from shoal.chains.functions import FunctionPool, require_pool
from shoal.chains.steps import FunctionStep
from shoal.errors import ConfigError, DeadlineExceeded, InvalidRequest, MissingExtra, RequestError, WorkerLost

FILE = Path(__file__).with_name("functions.py")


@pytest.fixture(scope="module")
def pool() -> Generator[FunctionPool, None, None]:
    pool = FunctionPool(1, 30.0)
    yield pool
    pool.close()


def step(function: str, *outputs: str) -> FunctionStep:
    return FunctionStep(name=function, file=FILE, function=function, inputs=(), outputs=outputs or ("y",))


def call(pool: FunctionPool, function: str, *outputs: str, **values: Any) -> tuple[Any, ...]:
    async def run() -> tuple[Any, ...]:
        return (await pool.call(step(function, *outputs), values))[0]

    return asyncio.run(run())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pebble", None)
    with pytest.raises(MissingExtra, match=r"pip install 'shoal-inference\[chains\]'"):
        require_pool()


def test_values(pool: FunctionPool) -> None:
    assert call(pool, "half", x=np.arange(4.0))[0].tolist() == [0, 0.5, 1, 1.5]
    assert call(pool, "words", "word", "count", text="a b") == (["a", "b"], 2)
    assert call(pool, "words", text="a b") == ((["a", "b"], 2),)
    assert call(pool, "width", x=3) == (6,)
    (own,) = call(pool, "process", x=0)
    assert own in {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    """As a user writes it, without `if __name__ == "__main__"`."""
    (tmp_path / "steps.py").write_text("def twice(text): return text + text\n")
    (tmp_path / "chain.yaml").write_text(
        "inputs: {text: text}\nsteps: [{call: steps.py:twice, inputs: [text], outputs: [both]}]\noutputs: [both]\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, shoal\n"
        "print('begun')\n"
        "with shoal.chain(sys.argv[1]) as chain:\n"
        "    print(chain(text='fish')['both'])\n"
        "print(sys.modules['__main__'].__file__ == __file__)\n"
    )
    done = subprocess.run((sys.executable, script, tmp_path), capture_output=True, text=True, timeout=100)
    assert (done.stdout.split(), done.returncode) == (["begun", "fishfish", "True"], 0), done.stderr


@pytest.mark.parametrize(
    ("function", "outputs", "kind", "said"),
    [
        ("loud", ("y",), InvalidRequest, "step 'loud': silence cannot be loud"),
        ("process", ("y",), RequestError, "unexpected keyword argument"),
        ("absent", ("y",), RequestError, "has no attribute 'absent'"),
        ("loud", ("y", "z", "v"), InvalidRequest, "silence"),
        ("leave", ("y",), RequestError, "step 'leave': SystemExit: silence"),
        ("interrupt", ("y",), RequestError, "step 'interrupt': KeyboardInterrupt: silence"),
        ("box", ("y",), RequestError, "step 'box': it returned what no other process can read"),
        ("unnamed", ("y",), RequestError, "step 'unnamed': it returned what no other process can read"),
    ],
)
def test_functions_that_raise(
    pool: FunctionPool, function: str, outputs: tuple[str, ...], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        call(pool, function, *outputs, word="silence")
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def prepare(image): pass", "defines no function 'prepared'; did you mean 'prepare'?"),
        ("prepared = 5", "defines no function 'prepared'$"),
        ("import nothing_of_this_name", "cannot be run: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise SystemExit(3)", "cannot be run: SystemExit: 3"),
        ("def prepared(image, size): pass", "with the step's inputs: missing a required argument: 'size'"),
        ("def prepared(): pass", "with the step's inputs: got an unexpected keyword argument 'image'"),
        ("import os; os._exit(3)", "the process that runs the file has ended"),
    ],
)
def test_functions_that_cannot_be_called_are_told_of_before_the_first_call(
    pool: FunctionPool, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "steps.py"
    file.write_text(content)
    wrong = FunctionStep(name="first", file=file, function="prepared", inputs=("image",), outputs=("y",))
    with pytest.raises(ConfigError, match=re.escape(f"step 'first': {file}: ") + f".*{said}"):
        pool.check([wrong])


def test_functions_that_can_be_called(pool: FunctionPool) -> None:
    half = FunctionStep(name="half", file=FILE, function="half", inputs=("x",), outputs=("y",))
    pool.check([half])
    assert call(pool, "half", x=2.0) == (1.0,)


def test_the_number_of_values(pool: FunctionPool) -> None:
    with pytest.raises(RequestError, match="returned 2 values, but the step has 3 outputs"):
        call(pool, "words", "a", "b", "c", text="x")


def test_a_call_whose_process_dies_is_made_again(pool: FunctionPool, tmp_path: Path) -> None:
    assert call(pool, "die", marks=str(tmp_path)) == ("alive",)


def test_processes_that_die_while_they_have_nothing_to_do_are_replaced(pool: FunctionPool) -> None:
    """For pebble, such a pool is broken for good."""
    for _ in range(2):
        (pid,) = call(pool, "own_pid")
        os.kill(pid, signal.SIGKILL)
    assert call(pool, "half", x=3.0) == (1.5,)


def test_a_call_that_kills_every_process(pool: FunctionPool, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="died 1 times in a row"):
        asyncio.run(_once(tmp_path))


@pytest.mark.parametrize("end", ["return", "raise"])
def test_a_copy_that_a_function_forks_does_not_answer(pool: FunctionPool, end: str) -> None:
    own, has_ended = call(pool, "forked", "own", "has_ended", x=end)
    assert has_ended
    assert call(pool, "own_pid") == (own,), "nor does it take the next call"


def test_the_end_of_a_process_is_seen_though_it_has_forked() -> None:
    """The copy would keep the pipes open until the call's time is up."""
    pool = FunctionPool(1, 30.0, max_tries=1)
    try:
        with pytest.raises(RequestError, match="in a row, by signal 9, as when memory runs out"):
            call(pool, "forgotten", x=0)
    finally:
        pool.close()


def test_values_that_take_too_much_memory() -> None:
    pool = FunctionPool(1, 30.0, most_bytes=1 << 20)
    try:
        assert call(pool, "many", count=1000) == (list(range(1000)),)
        with pytest.raises(RequestError, match="step 'many': it returned values of more than 1 MiB: see `value_mib`"):
            call(pool, "many", count=1 << 16)
    finally:
        pool.close()


async def _once(marks: Path) -> None:
    pool = FunctionPool(1, 30.0, max_tries=1)
    try:
        await pool.call(step("die"), {"marks": str(marks)})
    finally:
        pool.close()


def test_a_call_that_does_not_end(tmp_path: Path) -> None:
    before = _spawned()
    pool = FunctionPool(1, 0.2)
    with pytest.raises(DeadlineExceeded, match=r"'hang' took more than 0.2 s"):
        call(pool, "hang", x=0)
    pool.close()
    with pytest.raises(WorkerLost):
        call(pool, "half", x=1)
    assert _spawned() <= before


def _spawned() -> set[psutil.Process]:
    """Processes that run functions, of this test's pools and of those of others."""
    return {child for child in psutil.Process().children(recursive=True) if "spawn_main" in _command(child)}


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

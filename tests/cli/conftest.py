"""Run the command line in this process and look at what it says."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shoal.cli.main import main
from shoal.cli.shared.log import OF_LIBRARIES
from tests.model.tiny_models import make_tiny_gguf


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a command ended and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.status == 0, self.stderr
        assert self.stdout.endswith("\n")
        assert self.stdout.count("\n") == 1
        return json.loads(self.stdout)

    @property
    def complaint(self) -> str:
        """The one line on stderr, warnings aside, of a command that could not do what was asked for."""
        assert self.status == 2, (self.status, self.stderr)
        assert self.stdout == ""
        lines = [line for line in self.stderr.splitlines() if not line.startswith("warning:")]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("shoal: ")
        return lines[0]


Shoal = Callable[..., Result]


@pytest.fixture
def shoal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shoal:
    """`shoal("run", path, ..., stdin="text")` as the installed command would run it."""

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr("sys.argv", ["shoal", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Result(status=ended.value.code or 0, stdout=out, stderr=err)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="Q4_1")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """What a command sets up for its log does not outlive its test."""
    loggers = [logging.getLogger(name) for name in ("shoal", "shoal.announcements", "shoal.access", *OF_LIBRARIES)]
    before = [(logger.level, [*logger.handlers]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers

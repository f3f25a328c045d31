"""OpenVINO GenAI, which has no server of its own: its continuous batching is driven in process, without HTTP."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from processes import Failed, last_words

from engines.reading import Reading
from engines.streams import MODEL_NAME, PROMPT_TOKENS, StreamLoad
from shoal.bench.load import Load, prompts

_LOOP = Path(__file__).parent / "inside" / "openvino_loop.py"
_END_TIMEOUT_S = 30.0


class OpenVino:
    """A Python that has openvino-genai, on one GGUF file."""

    def __init__(self, python: Path, model: Path) -> None:
        self._python = python
        self._model = model

    @contextmanager
    def serving(self, *, threads: int, slots: int) -> Iterator[Session]:
        """A process that has loaded the model."""
        command = [self._python, _LOOP, self._model, str(slots), str(threads)]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                session = Session(process, log)
                session.receive()
                yield session
                process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]: it is piped
                process.wait(_END_TIMEOUT_S)
            finally:
                process.kill()


class Session:
    """Implements `engines.streams.Served`."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def run(self, load: StreamLoad) -> Reading:
        """See `Served`: the same prompts as over HTTP, after a warm-up by the first of them, which is not counted."""
        warm_up, *counted = prompts(_same_load(load))
        self._ask(1, [warm_up], load.output_tokens)
        result = self._ask(load.streams, counted, load.output_tokens)
        return load.checked(result["output_tokens"], result["duration_s"])

    def answer_once(self) -> None:
        """See `Served`."""
        self._ask(1, [list(range(1000, 1000 + PROMPT_TOKENS))], 8)

    def receive(self) -> dict[str, Any]:
        """The next thing it says. Raises Failed where it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"it ended with status {self._process.wait()}: {last_words(self._log)}")
        return json.loads(line)

    def _ask(self, streams: int, prompt_ids: list[Any], output_tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"streams": streams, "prompts": prompt_ids, "output_tokens": output_tokens}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.receive()


def openvino_version(python: Path) -> str:
    """Of the package."""
    script = "from importlib.metadata import version; print(version('openvino-genai'))"
    return subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()


def _same_load(load: StreamLoad) -> Load:
    """What `shoal bench serve` makes of the same numbers."""
    return Load(
        base_url="",
        model=MODEL_NAME,
        concurrency=load.streams,
        num_prompts=load.num_requests,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
    )

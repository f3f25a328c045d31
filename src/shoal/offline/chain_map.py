"""A chain over the files of a folder: one output file for each, in JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.chains.values import json_of
from shoal.errors import ConfigError, QueueFull, RequestError
from shoal.offline.files.fingerprint import fingerprint
from shoal.offline.journal import Journal, open_journal
from shoal.offline.map_job import JOURNAL, MapSummary
from shoal.offline.work import Failure
from shoal.out_files import naming, prepare_folder, sync_file, whole_file

UNDER_WAY = 32
"""Files in progress at once: enough to fill the graphs' batches, few enough to hold in memory."""
MAX_FILE_BYTES = 1 << 28
"""The largest file. A judgment: far above any picture."""
_COMMIT_EVERY = 16
"""Files between two commits of the journal, which is the most work that a kill costs."""

Submit = Callable[[bytes], "Future[dict[str, Any]]"]
_Result = dict[str, Any] | RequestError | QueueFull


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainMap:
    """A map of a chain over the files of a folder."""

    inputs: Path
    """A folder in which each file is one request; names that begin with a dot are ignored."""
    output: Path
    """A folder for the outputs, `NAME.json` for each file."""
    identity: str
    """The identity of the chain, which must be the same if a map is resumed."""
    resume: bool = False

    def run(
        self, submit: Submit, on_progress: Callable[[int, int], None], on_failure: Callable[[Failure], None]
    ) -> MapSummary:
        """Compute the outputs of all files that are not done yet.

        Args:
            submit: starts a request with a file's content.
            on_progress: called with the number of files that are done and the number of all files.
            on_failure: called for every file without output.

        Raises:
            ConfigError: a folder is invalid, or contains the output of another run.
            CapacityError: an output cannot be written.
            WorkerLost: nothing can be computed any more.
        """
        files = self.check()
        begun_s = time.monotonic()
        with closing(open_journal(self.output / JOURNAL, self._header(), resume=self.resume)) as journal:
            done = {record["item"]: record["content"] for record in journal.records if "item" in record}
            todo = [file for file in files if not self._is_done(file, done)]
            summary = MapSummary(
                unit="files", total=len(files), num_done_before=len(files) - len(todo), outputs=[str(self.output)]
            )
            for file, content, result in _computed(todo, submit):
                self._take(file, content, result, journal, summary, on_failure)
                on_progress(summary.num_done_before + summary.num_done + summary.num_failed, summary.total)
            self._commit(journal)
        summary.elapsed_s = time.monotonic() - begun_s
        return summary

    def check(self) -> list[Path]:
        """Check the folders before anything is loaded. Returns the files of the input. Raises: as `run`."""
        files = self._files()
        prepare_folder(self.output)
        return files

    def path(self, file: Path) -> Path:
        """The path of a file's output."""
        return self.output / f"{file.name}.json"

    def _files(self) -> list[Path]:
        if not self.inputs.is_dir():
            raise ConfigError(f"{self.inputs} is not a folder: a chain is mapped over the files of a folder")
        if self.output.resolve() == self.inputs.resolve():
            raise ConfigError(f"-o {self.output} is the input folder; give another one")
        files = sorted(path for path in self.inputs.iterdir() if path.is_file() and not path.name.startswith("."))
        if not files:
            raise ConfigError(f"{self.inputs} contains no files, so there is nothing to do")
        return files

    def _header(self) -> dict[str, str]:
        return {"model": self.identity, "input": "folder"}

    def _is_done(self, file: Path, done: Mapping[str, str]) -> bool:
        if file.name not in done or not self.path(file).exists():
            return False
        try:
            return fingerprint([file]) == done[file.name]
        except ConfigError:  # it cannot be read, which is said when its turn comes
            return False

    def _take(
        self,
        file: Path,
        content: str,
        result: _Result,
        journal: Journal,
        summary: MapSummary,
        on_failure: Callable[[Failure], None],
    ) -> None:
        written = _written(result)
        if isinstance(written, bytes):
            with whole_file(self.path(file)) as opened, naming(self.path(file)):
                opened.write(written)
            sync_file(self.path(file))
            journal.add({"item": file.name, "content": content})
            summary.num_done += 1
        else:
            failure = Failure(name=file.name, reason=str(written))
            summary.num_failed += 1
            summary.failures.append(failure)
            on_failure(failure)
        if summary.num_done % _COMMIT_EVERY == 0:
            self._commit(journal)

    def _commit(self, journal: Journal) -> None:
        if journal.has_pending:
            sync_file(self.output)
            journal.commit()


def _written(result: _Result) -> bytes | RequestError | QueueFull:
    """The content of a file's output, or the error if there is none."""
    if isinstance(result, RequestError | QueueFull):
        return result
    try:
        return json_of(result, "what comes of it") + b"\n"
    except RequestError as error:
        return error


def _computed(files: Sequence[Path], submit: Submit) -> Iterator[tuple[Path, str, _Result]]:
    """Compute files and yield them with the fingerprints of what was read, and their results, in the order in which
    they finish."""
    waiting = iter(files)
    under_way: dict[Future[dict[str, Any]], tuple[Path, str]] = {}
    try:
        while True:
            for file in waiting:
                try:
                    content = _fingerprint(file)  # before it is read: what is written meanwhile counts as a change
                    under_way[submit(_content(file))] = file, content
                except RequestError as error:
                    yield file, "", error
                if len(under_way) >= UNDER_WAY:
                    break
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                file, content = under_way.pop(future)
                try:
                    yield file, content, future.result()
                except (RequestError, QueueFull) as error:
                    yield file, content, error
    finally:
        for future in under_way:
            future.cancel()


def _fingerprint(file: Path) -> str:
    """Raises RequestError."""
    try:
        return fingerprint([file])
    except ConfigError as error:
        raise RequestError(str(error)) from None


def _content(file: Path) -> bytes:
    """Raises RequestError."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"it has more than {MAX_FILE_BYTES:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise RequestError(f"it cannot be read: {error.strerror}") from None

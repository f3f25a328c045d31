"""`shoal transcribe`: sound files to text or subtitles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.checked_command import examples
from shoal.errors import ConfigError

EXAMPLE = examples(
    "shoal transcribe whisper-tiny.en talk.mp3",
    "shoal transcribe whisper-small *.m4a --language de --format srt -o subtitles/ --split dp=2",
)
_FORMATS = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json"}


def transcribe(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A folder with a Whisper model (in the format of Hugging Face or of CTranslate2), hf:org/name or "
            "pkg:NAME.",
            metavar="MODEL",
        ),
    ],
    sounds: Annotated[
        list[Path], typer.Argument(help="Audio or video files, in any format that FFmpeg reads.", metavar="FILE...")
    ],
    language: Annotated[
        str | None,
        typer.Option(
            help="The spoken language, such as de or german. Default: it is detected.",
            rich_help_panel=options.SPEECH,
        ),
    ] = None,
    translate: Annotated[
        bool,
        typer.Option(
            "--translate", help="Translate into English, whatever language is spoken.", rich_help_panel=options.SPEECH
        ),
    ] = False,
    prompt: Annotated[
        str,
        typer.Option(
            help="Text to assume before the sound, for example names in their right spelling.",
            rich_help_panel=options.SPEECH,
        ),
    ] = "",
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="The sampling temperature. At 0 it starts there and rises where the text comes out badly; above "
            "0 it stays.",
            rich_help_panel=options.SPEECH,
        ),
    ] = 0.0,
    beam_size: options.BeamSize = 5,
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="How many texts to draw at a temperature above 0; the likeliest is kept.",
            rich_help_panel=options.SPEECH,
        ),
    ] = 5,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="The output format: text, srt, vtt or json (with segments and times).",
            rich_help_panel=options.SPEECH,
        ),
    ] = "text",
    words: Annotated[
        bool,
        typer.Option("--words", help="Add the times of each word to --format json.", rich_help_panel=options.SPEECH),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A folder in which to write a file for each sound. Default: stdout.",
            rich_help_panel=options.SPEECH,
        ),
    ] = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    precision: options.Precision = "auto",
    activations: options.Activations = "int8",
    no_weight_cache: options.NoWeightCache = False,
    threads: options.Threads = None,
    max_seqs: options.MaxSeqs = 24,
    kv_memory: options.KvMemory = None,
) -> None:
    """Transcribe audio files. Several files, and the pieces of long ones, are computed together."""
    if form not in _FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(_FORMATS)}, not {form!r}")
    if words and form != "json":
        raise ConfigError("--words needs --format json")
    for sound in sounds:
        if not sound.is_file():
            raise ConfigError(f"there is no file {str(sound)!r}")
    if output is not None:
        _check_names(sounds)
    option_values.check_beams(beam_size, max_seqs)
    from shoal.api.speech import Transcriber
    from shoal.cli.language.launch_config import language_config, speech_options
    from shoal.cli.language.loading import load_planned, plan_for
    from shoal.model.formats.speech_files import speech_model
    from shoal.out_files import whole_file
    from shoal.speech.transcript import TEXT_FORMS, as_verbose

    config = language_config(context, speech_model(model), is_rough=True, **speech_options(context))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with Transcriber.over(load_planned(plan_for(config, quiet=True), quiet=True)) as transcriber:
        transcripts = transcriber.transcribe(
            list(sounds),
            language=language,
            prompt=prompt,
            temperature=temperature,
            beam_size=beam_size,
            best_of=best_of,
            words=words,
            task="translate" if translate else "transcribe",
        )
    granularities = ("segment", "word") if words else ("segment",)
    for sound, transcript in zip(sounds, transcripts, strict=True):
        if form == "json":
            written = json.dumps(as_verbose(transcript, transcript.language, granularities), ensure_ascii=False) + "\n"
        else:
            written = TEXT_FORMS[form](transcript)
        if output is None:
            print(written, end="")
        else:
            with whole_file(output / f"{sound.stem}{_FORMATS[form]}") as file:
                file.write(written.encode())


def _check_names(sounds: Sequence[Path]) -> None:
    """Raises ConfigError where two files would be written over each other."""
    first: dict[str, Path] = {}
    for sound in sounds:
        other = first.setdefault(sound.stem, sound)
        if other is not sound:
            raise ConfigError(f"{other} and {sound} would both be written as {sound.stem}: give them in two commands")

"""A model of speech for a command: its defaults, and what transcribes once it is loaded."""

from __future__ import annotations

from typing import Any

import typer

from shoal.api.options import LaunchOptions
from shoal.generation.data_plane import DataPlane
from shoal.launch.loaded_model import LoadedModel
from shoal.speech.transcriber import WindowTranscriber
from shoal.speech.vocabulary import read_vocabulary

MAX_SEQS = 8
"""Requests at once unless it was said otherwise: what an encoder gave for a clip takes megabytes."""


def speech_defaults(context: typer.Context) -> LaunchOptions:
    """What a model of speech has other defaults for than a language model."""
    source = context.get_parameter_source("max_seqs")
    is_said = source is not None and source.name != "DEFAULT"
    changes: dict[str, Any] = {} if is_said else {"max_seqs": MAX_SEQS}
    return LaunchOptions(**changes)


def window_transcriber(loaded: LoadedModel, data_plane: DataPlane) -> WindowTranscriber:
    """Of a loaded model. Raises ModelLoadError: its tokenizer lacks Whisper's tokens."""
    encoder = loaded.decoder.encoder
    assert encoder is not None
    vocabulary = read_vocabulary(loaded.path, loaded.tokenizer, loaded.decoder.vocab_size)
    return WindowTranscriber(data_plane, encoder, vocabulary)

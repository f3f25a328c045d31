"""The kinds of steps in a chain, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from shoal.model.encoder.folder import EncoderFolder


class InputKind(StrEnum):
    """What clients send for an input."""

    IMAGE = "image"
    """A picture file; steps get its pixels, (height, width, 3), RGB, uint8."""
    AUDIO = "audio"
    """A sound file; steps get its samples, (samples,), 16 kHz, one channel, float32 between -1 and 1."""
    BYTES = "bytes"
    """Bytes, passed on as they are."""
    TEXT = "text"
    """A string."""
    TEXTS = "texts"
    """A list of strings."""
    TENSOR = "tensor"
    """An array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStep:
    """Runs an ONNX graph, batched with the same step of other requests."""

    name: str
    model: Path
    inputs: Mapping[str, str]
    """Names of the chain's values by the graph's input names."""
    outputs: Mapping[str, str]
    """The graph's output names by names of the chain's values."""
    each: frozenset[str] = frozenset()
    """Values that are lists: the step runs once for each of their items, and its outputs are lists."""

    @property
    def model_name(self) -> str:
        """Name under which the graph is served."""
        return self.model.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStep:
    """Calls a Python function in one of the chain's processes."""

    name: str
    file: Path
    function: str
    inputs: tuple[str, ...]
    """Values that are passed as arguments with these names."""
    outputs: tuple[str, ...]
    """Names of the returned values: one value, or a tuple of as many."""
    each: frozenset[str] = frozenset()
    """See `GraphStep.each`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderStep:
    """Computes vectors of texts, or ranks texts by how well they answer a query."""

    name: str
    folder: Path
    """Folder of a text encoder."""
    model_name: str
    """Name under which its graph is served."""
    encoder: EncoderFolder
    """Content of the folder."""
    texts: str
    """The value with a text, or a list of texts."""
    query: str | None
    """The value with the query by which texts are ranked; None: vectors are computed."""
    outputs: tuple[str, ...]
    """Vectors [H] of one text or [N, H] of a list; for ranked texts, the best ones and, if two outputs are named, their
    scores."""
    kind: str = ""
    """Kind of the texts, such as `query`, for models that are told it."""
    top_n: int | None = None
    """Number of ranked texts to return; None: all."""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Values that the step uses."""
        return (self.texts,) if self.query is None else (self.query, self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageStep:
    """Asks a language model for an answer to a prompt."""

    name: str
    model: str
    """The model as `shoal serve` takes it; paths are absolute."""
    prompt: str
    """The prompt. `{NAME}` stands for a value: a text, or a list of texts, one on each line."""
    system: str
    """The system message; empty: none."""
    inputs: tuple[str, ...]
    """Values that the texts name."""
    outputs: tuple[str]
    """Name of the answer."""
    is_raw: bool = False
    """Whether the prompt is continued as plain text, without the chat template."""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `shoal.LLM.chat`."""
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `shoal.LLM`."""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStep:
    """Transcribes speech."""

    name: str
    model: str
    """The model as `shoal transcribe` takes it; paths are absolute."""
    audio: str
    """The value with samples, in the form of an input of the kind `audio`."""
    outputs: tuple[str, ...]
    """The text and, if two outputs are named, its segments: a list of what `verbose_json` has for each."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `shoal.Transcriber.transcribe`."""
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `shoal.Transcriber`."""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Values that the step uses."""
        return (self.audio,)


Step = GraphStep | FunctionStep | EncoderStep | LanguageStep | SpeechStep

"""What a chain's steps say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from shoal.model.encoder.folder import EncoderFolder


class InputKind(StrEnum):
    """What clients give for an input."""

    IMAGE = "image"
    """a picture file; steps get its pixels, (height, width, 3), RGB, uint8"""
    AUDIO = "audio"
    """a sound file; steps get its samples, (samples,), 16 kHz, one channel, float32 between -1 and 1"""
    BYTES = "bytes"
    """the bytes as they are"""
    TEXT = "text"
    """a string"""
    TEXTS = "texts"
    """a list of strings"""
    TENSOR = "tensor"
    """an array"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStep:
    """Runs an ONNX graph, together with the same step of other requests."""

    name: str
    model: Path
    inputs: Mapping[str, str]
    """values by the graph's names"""
    outputs: Mapping[str, str]
    """the graph's names by values"""
    each: frozenset[str] = frozenset()
    """values that are lists: the step runs once for every item of them, and its outputs are lists"""

    @property
    def model_name(self) -> str:
        """That the graph is served under."""
        return self.model.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStep:
    """Calls a Python function in a process of the chain's own."""

    name: str
    file: Path
    function: str
    inputs: tuple[str, ...]
    """values, given by these names"""
    outputs: tuple[str, ...]
    """what it returns: one value, or as many in a tuple"""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderStep:
    """Makes vectors of texts, or puts texts in the order in which they answer a query."""

    name: str
    folder: Path
    """of an encoder of texts"""
    model_name: str
    """that its graph is served under"""
    encoder: EncoderFolder
    """what is in it"""
    texts: str
    """the value with a text, or a list of them"""
    query: str | None
    """the value with the text that the others are ranked by; None: vectors are made"""
    outputs: tuple[str, ...]
    """vectors [H] of one text or [N, H] of a list; of ranked texts the best, and where two are named, their scores"""
    kind: str = ""
    """what the texts are, for models that are told so, such as `query`"""
    top_n: int | None = None
    """how many of the ranked texts; None: all"""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Values that it uses."""
        return (self.texts,) if self.query is None else (self.query, self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageStep:
    """Has a language model answer a prompt."""

    name: str
    model: str
    """as `shoal serve` takes it; paths are whole"""
    prompt: str
    """`{NAME}` in it stands for a value: a text, or a list of texts, a line each"""
    system: str
    """the message before the prompt; empty: none"""
    inputs: tuple[str, ...]
    """values that the texts name"""
    outputs: tuple[str]
    """the answer"""
    is_raw: bool = False
    """whether the prompt is continued as plain text, without the chat template"""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """keyword arguments of `shoal.LLM.chat`"""
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """keyword arguments of `shoal.LLM`"""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStep:
    """Writes down what is said in a sound."""

    name: str
    model: str
    """as `shoal transcribe` takes it; paths are whole"""
    audio: str
    """the value with samples, as an input of the kind `audio` has them"""
    outputs: tuple[str, ...]
    """the text, and where two are named, its segments: a list of what `verbose_json` has of each"""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """keyword arguments of `shoal.Transcriber.transcribe`"""
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """keyword arguments of `shoal.Transcriber`"""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Values that it uses."""
        return (self.audio,)


Step = GraphStep | FunctionStep | EncoderStep | LanguageStep | SpeechStep

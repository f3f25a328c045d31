"""The options for transcribing one sound, as a caller gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.core.sequences.beams import BeamSearch
from shoal.speech.window import TEMPERATURES, Thresholds

BEAM_SIZE = 5
"""Hypotheses of a beam search, as in openai/whisper's command and faster-whisper."""
BEST_OF = 5
"""Number of drawn texts, as in these programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechOptions:
    """How one sound is transcribed."""

    task: str = "transcribe"
    """`transcribe`, or `translate` for a translation into English."""
    language: str | None = None
    """The spoken language, by code or name; None: the model detects it."""
    prompt: str = ""
    """Text that may precede the sound: names and their spelling."""
    temperature: float | Sequence[float] = 0.0
    """0: starts there and rises while the text is poor; another value is kept; several are tried one after the
    other."""
    beam_size: int = BEAM_SIZE
    """Hypotheses that are followed at temperature 0; 1: the most likely token is always taken."""
    patience: float = 1.0
    """A search ends after `patience * beam_size` hypotheses have ended; above 0."""
    length_penalty: float | None = None
    """Exponent of ((5 + tokens) / 6), by which sums of log-probabilities are divided before they are compared, 0 to 1;
    None: they are divided by the number of tokens."""
    best_of: int = BEST_OF
    """Texts that are drawn at a temperature above 0, of which the most likely is taken."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Conditions under which a text is accepted."""
    words: bool = False
    """Whether to find the time of each word."""
    timeout_s: float | None = None
    """Time limit for each window; None: none."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures at which a window is decoded, one after the other, until its text is accepted; at least one."""
        if not isinstance(self.temperature, int | float):
            return tuple(self.temperature) or TEMPERATURES
        return TEMPERATURES if self.temperature == 0.0 else (float(self.temperature),)

    @property
    def search(self) -> BeamSearch:
        """How texts are searched for and compared."""
        return BeamSearch(num_beams=self.beam_size, patience=self.patience, length_penalty=self.length_penalty)

"""How one sound is transcribed, as a caller says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.core.sequences.beams import BeamSearch
from shoal.speech.window import TEMPERATURES, Thresholds

BEAM_SIZE = 5
"""of a search, as openai/whisper's command and faster-whisper have it"""
BEST_OF = 5
"""of draws, the same"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechOptions:
    """How one sound is transcribed."""

    task: str = "transcribe"
    """or `translate`: into English"""
    language: str | None = None
    """that is spoken, by its code or name; None: the model says it"""
    prompt: str = ""
    """text that may come before: names and how they are spelled"""
    temperature: float | Sequence[float] = 0.0
    """0 begins there and goes up where the text is poor; another one is kept; several are tried one after the other"""
    beam_size: int = BEAM_SIZE
    """Hypotheses that are followed at temperature 0; 1: the likeliest token is taken every time"""
    patience: float = 1.0
    """A search ends when so many times `beam_size` hypotheses have ended; above 0"""
    length_penalty: float | None = None
    """Exponent of ((5 + tokens) / 6), by which sums of log-probabilities are divided before they are compared, 0 to 1;
    None: they are divided by tokens"""
    best_of: int = BEST_OF
    """Texts that are drawn at a temperature above 0, of which the likeliest is taken"""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """of a text that is believed"""
    words: bool = False
    """Whether to find out when each word was said"""
    timeout_s: float | None = None
    """that each window may take; None: any"""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """That a window is decoded at, one after the other, until its text is believed; at least one."""
        if not isinstance(self.temperature, int | float):
            return tuple(self.temperature) or TEMPERATURES
        return TEMPERATURES if self.temperature == 0.0 else (float(self.temperature),)

    @property
    def search(self) -> BeamSearch:
        """How texts are looked for and compared."""
        return BeamSearch(num_beams=self.beam_size, patience=self.patience, length_penalty=self.length_penalty)

"""A small vocabulary of speech for tests: 20 words, special tokens, and times up to 1 s."""

from __future__ import annotations

from shoal.speech.vocabulary import SpeechVocabulary

END, START, TRANSCRIBE, NO_SPEECH, NO_TIMES = 20, 21, 22, 23, 24
FIRST = 25
VOCABULARY = SpeechVocabulary(
    end=END,
    start=START,
    previous=None,
    transcribe=TRANSCRIBE,
    translate=None,
    no_speech=NO_SPEECH,
    no_timestamps=NO_TIMES,
    languages={},
    suppressed=(3, START, TRANSCRIBE, NO_SPEECH, NO_TIMES),
    suppressed_first=(0, END),
    num_tokens=FIRST + 51,
    alignment_heads=(),
)

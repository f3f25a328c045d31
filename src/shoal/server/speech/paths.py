"""Paths for transcribing speech, also for servers of other models, which say that theirs cannot."""

from __future__ import annotations

TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
MAX_UPLOAD_BYTES = 64 << 20
"""Default limit for a request; OpenAI accepts 25 MB."""
AUDIO_PATHS = (TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH)

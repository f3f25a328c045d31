"""Language models as encoders: vectors of texts, or ranking."""

from __future__ import annotations

from shoal.embeddings.decoder_encoder import DecoderEncoder
from shoal.embeddings.encoder import TextEncoder
from shoal.embeddings.yes_no_ranker import YesNoRanker
from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.model.encoder.yes_no import YesNoSettings


def language_encoder(data_plane: DataPlane, settings: SentenceSettings | YesNoSettings) -> TextEncoder:
    """Make the encoder for the settings of `read_decoder_settings`. Raises ModelLoadError if they do not fit the
    model."""
    if isinstance(settings, YesNoSettings):
        return YesNoRanker(data_plane, settings)
    return DecoderEncoder(data_plane, settings)

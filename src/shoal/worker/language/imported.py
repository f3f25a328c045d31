"""What a worker of a language model needs, whatever the model: imported once for all that are forked."""

from __future__ import annotations

import os

import shoal.model.decoder.stage
import shoal.worker.language.decoder_runner
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder.forced_form import NATIVE

if native_available() and os.environ.get(NATIVE) != "0":
    import shoal.model.decoder.native.native_layers  # noqa: F401

"""What workers of all language models need: imported once, before workers are forked."""

from __future__ import annotations

import os

import shoal.model.decoder.stage
import shoal.worker.language.decoder_runner
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder.forced_form import NATIVE

if native_available() and os.environ.get(NATIVE) != "0":
    import shoal.model.decoder.native.native_layers  # noqa: F401

"""The Retry-After header."""

from __future__ import annotations

import math

_DEFAULT_S = 1.0
"""Default if nothing better is known."""


def retry_after(seconds: float | None) -> str:
    """Whole seconds, at least one; None: unknown. Source: RFC 9110, section 10.2.3."""
    return str(max(1, math.ceil(seconds or _DEFAULT_S)))

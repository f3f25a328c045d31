"""What the calls that load models may ask for, the same in both dialects."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import InvalidRequest


def check_load_parameters(names: Iterable[str]) -> None:
    """Raises InvalidRequest for parameters that would replace a model's configuration or files."""
    for name in names:
        if name == "config" or name.startswith("file:"):
            raise InvalidRequest(
                f"parameter {name!r}: models are loaded as they lie in the repository, with the server's options"
            )

"""The description of the model for Ollama's clients."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shoal.protocol.worker_messages import FileState

_NEVER = "2318-10-01T00:00:00Z"
"""Expiry of a model that stays loaded. Source: Ollama's answer if `keep_alive` is negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model's files, described for Ollama's clients."""

    family: str
    """The model's architecture, as its settings name it."""
    format: str
    """gguf | safetensors"""
    precision: str
    """Precision in which its weights are held."""
    files: Sequence[FileState] = ()

    def details(self, parent: str | None = None) -> dict[str, Any]:
        """`details` in Ollama's answers. `parent`: for an adapter, the model that it belongs to."""
        return {
            "parent_model": parent or "",
            "format": self.format,
            "family": self.family,
            "families": [self.family] if self.family else [],
            "parameter_size": "",
            "quantization_level": self.precision,
        }

    def listed(self, name: str, parent: str | None = None) -> dict[str, Any]:
        """An entry of /api/tags. The digest distinguishes files, but is not that of all of their bytes."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name} {file.num_bytes} {file.header_sha256}\n".encode())
        return {
            "name": name,
            "model": name,
            "modified_at": self.modified_at(),
            "size": sum(file.num_bytes for file in self.files),
            "digest": digest.hexdigest(),
            "details": self.details(parent),
        }

    def running(self, name: str, parent: str | None = None, *, max_context: int | None = None) -> dict[str, Any]:
        """An entry of /api/ps. `max_context`: in tokens; None: unknown."""
        state: dict[str, Any] = {"expires_at": _NEVER, "size_vram": 0}
        context = {} if max_context is None else {"context_length": max_context}
        return {**self.listed(name, parent), **state, **context}

    def modified_at(self) -> str:
        """Modification time of the newest file."""
        newest_ns = max((file.mtime_ns for file in self.files), default=0)
        return datetime.fromtimestamp(newest_ns / 1e9, UTC).isoformat().replace("+00:00", "Z")


UNKNOWN_CARD = ModelCard(family="", format="", precision="")
"""The description of a model whose files are unknown."""

"""Whether this environment has execution providers for devices, without importing ONNX Runtime each time."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.json_cache import ProfileCache, profile_folder

_RUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuiltIn:
    """The cached facts about a build of ONNX Runtime."""

    providers: tuple[str, ...]


def has_providers() -> bool:
    """Whether this environment has any provider for devices. Registers no provider and asks no driver.

    The built-in providers of ONNX Runtime are cached for the state of its library's files, as importing it takes 30 to
    70 ms.
    """
    if any(one.plugin is not None and find_spec(one.plugin.replace("-", "_")) for one in PROVIDERS.values()):
        return True
    spec = find_spec(_RUNTIME)
    if spec is None or spec.origin is None:
        return False
    libraries = sorted((Path(spec.origin).parent / "capi").glob(f"{_RUNTIME}_pybind11_state*"))
    files = [(str(file), (state := file.stat()).st_size, state.st_mtime_ns) for file in libraries]
    kept = ProfileCache(profile_folder(), _BuiltIn)
    built_in = kept.get_or_measure({"kind": "providers", "files": files}, _ask).providers
    return any(one.runtime_name in built_in for one in PROVIDERS.values())


def _ask() -> _BuiltIn:
    return _BuiltIn(providers=tuple(importlib.import_module(_RUNTIME).get_available_providers()))

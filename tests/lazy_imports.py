"""Modules that take seconds to import, imported when a test first uses them.

Every process of a test run imports every test module. Of several processes, only those that run tests with the
official clients or with torch have to import these.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_OF_PYTEST = ("__", "_mock", "_pytest")
"""Beginnings of names that pytest looks for in everything that a test module holds, without a use of it."""
_OF_PACKAGES = ("__path__", "__version__")
"""Of those, what is asked for by who imports a submodule, or wants to know the version."""


class LazyModule(ModuleType):
    """Stands in for a package until somebody asks for a name in it, and then hands on what the package has."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__file__ = spec.origin

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            if name.startswith(_OF_PYTEST) and name not in _OF_PACKAGES:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def import_lazily(names: Iterable[str]) -> None:
    """Let each package that is installed and not imported yet be imported by its first use."""
    for name in names:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            sys.modules[name] = LazyModule(spec)

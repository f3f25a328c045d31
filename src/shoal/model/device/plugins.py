"""Execution providers that ONNX Runtime does not contain: packages whose library adds one to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec

import onnxruntime as ort

from shoal.core.plan.devices.providers import PROVIDERS, Provider
from shoal.errors import ConfigError

_RUNTIME = "onnxruntime"


@cache
def register_plugin(provider: str) -> bool:
    """Whether the provider's plugin package is installed. If so, it is registered, once in the life of the process.

    Raises:
        ConfigError: ONNX Runtime refuses its library, or does not support plugins.
    """
    plugin = PROVIDERS[provider].plugin
    if plugin is None or not _is_installed(plugin):
        return False
    if not hasattr(ort, "register_execution_provider_library"):
        raise ConfigError(f"ONNX Runtime {ort.__version__} here is too old for {plugin}; pip install -U onnxruntime")
    try:
        library = import_module(_module_of(plugin)).get_library_path()
        ort.register_execution_provider_library(PROVIDERS[provider].runtime_name, library)
    except Exception as error:  # ONNX Runtime's errors share no other base
        raise ConfigError(
            f"{plugin}: ONNX Runtime {ort.__version__} refuses it: {' '.join(str(error).split())}"
        ) from error
    return True


def plugin_devices(provider: str) -> Sequence[ort.OrtEpDevice]:
    """The devices of a provider whose plugin is installed. Raises ConfigError."""
    if not register_plugin(provider):
        return ()
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDERS[provider].runtime_name]


def is_built_in(provider: str) -> bool:
    """Whether the installed ONNX Runtime was built with a provider."""
    return PROVIDERS[provider].runtime_name in ort.get_available_providers() and not register_plugin(provider)


def package_of(provider: str) -> str:
    """The package, with its version, that brings a provider which is available."""
    found = PROVIDERS[provider]
    is_plugin = found.plugin is not None and _is_installed(found.plugin)
    for name in (found.plugin if is_plugin else found.build, _RUNTIME):
        if name is not None:
            try:
                return f"{name} {version(name)}"
            except PackageNotFoundError:
                continue
    return _RUNTIME


def clashing_packages() -> tuple[str, ...]:
    """Packages, with their versions, that share the module name `onnxruntime`, if this hides a provider."""
    others = [one for one in PROVIDERS.values() if one.build not in (None, _RUNTIME)]
    builds = {one.build: one.runtime_name for one in reversed(others)}  # the first of a build gives the name
    found = {name: one.version for one in distributions() if (name := one.name.lower()) in {_RUNTIME, *builds}}
    hidden = [name for name in found if name in builds and builds[name] not in ort.get_available_providers()]
    return tuple(f"{name} {version}" for name, version in sorted(found.items())) if hidden else ()


def _module_of(plugin: str) -> str:
    return plugin.replace("-", "_")


def _is_installed(plugin: str) -> bool:
    return find_spec(_module_of(plugin)) is not None


def not_at_hand(provider: str) -> ConfigError:
    """The error for a provider that is not installed: what is installed, and what to do."""
    found: Provider = PROVIDERS[provider]
    clash = clashing_packages()
    if any(one.startswith(f"{found.build} ") for one in clash):
        names = " ".join(one.split()[0] for one in clash)
        return ConfigError(
            f"{found.runtime_name} is not available: {' and '.join(clash)} share the module name onnxruntime, "
            f"and the one installed last is used; pip uninstall -y {names} && pip install {found.build}"
        )
    return ConfigError(
        f"ONNX Runtime {ort.__version__} here has no {found.runtime_name}; {found.install}, or name the Python of "
        f"another environment that has it: --worker-python {provider}=PATH"
    )

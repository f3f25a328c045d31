"""Exports a `torch.nn.Module` as an ONNX file. Only this module imports torch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, MissingExtra, ModelLoadError

_SINGLE_FILE_BYTES = 1 << 30
"""Weights beyond this go into a file beside it. Source: Protocol Buffers' limit of 2 GiB for a message; half is for the
rest."""


def export_module(module: Any, example_inputs: Any, folder: Path) -> Path:
    """Export a module, with a dynamic first dimension if it has one.

    Args:
        module: a `torch.nn.Module`; it is exported in evaluation mode and keeps the mode it was in.
        example_inputs: a tuple of tensors (or one tensor), or a mapping of argument names to tensors.
        folder: where the file, and its external data if it is large, are written.

    Raises:
        ConfigError: `module` is not a module, or there are no example inputs.
        MissingExtra: torch or onnxscript is not installed.
        ModelLoadError: torch cannot export the module.
    """
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it)
        import torch
    except ImportError as error:
        raise MissingExtra(f"exporting a module needs {error.name}", "torch") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"load takes the path of an ONNX file or a torch.nn.Module, not {type(module).__name__}")
    if example_inputs is None:
        raise ConfigError("a torch.nn.Module needs example_inputs=... to be exported")
    arguments, keywords = _arguments(example_inputs)
    for value in (*arguments, *keywords.values()):
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"example_inputs must be tensors, not {type(value).__name__}")
    path = folder / "model.onnx"
    was_training = module.training
    module.eval()
    try:
        _export(torch, module, arguments, keywords, path)
    except Exception as error:  # the exporter raises errors of many kinds, none of them public
        raise ModelLoadError(f"torch cannot export this module: {str(error).strip().splitlines()[0]}") from error
    finally:
        module.train(was_training)
    return path


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _export(torch: Any, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], path: Path) -> None:
    """Export with a dynamic batch if the module allows one, otherwise with the sizes of the example."""
    shape = {0: torch.export.Dim.DYNAMIC}
    dims = tuple(shape if value.dim() else None for value in arguments)
    named = {name: shape if value.dim() else None for name, value in keywords.items()}
    for dynamic_shapes in (dims or named, None):
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")  # torch warns about its own internals
                torch.onnx.export(
                    module,
                    arguments,
                    path,
                    kwargs=keywords,
                    dynamo=True,
                    dynamic_shapes=dynamic_shapes,
                    external_data=_is_large(module),
                    verbose=False,
                )
            return
        except Exception:
            if dynamic_shapes is None:
                raise


def _is_large(module: Any) -> bool:
    return sum(value.nbytes for value in module.state_dict().values()) > _SINGLE_FILE_BYTES

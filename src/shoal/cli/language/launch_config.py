"""What the command line says of a language model, as the configuration that loads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack, cast

import typer

from shoal.api.options import LaunchOptions, launch_config
from shoal.cli.shared import option_values
from shoal.cli.shared.adapters import parse_adapters
from shoal.config import LaunchConfig


def speech_options(context: typer.Context) -> LaunchOptions:
    """What a model of speech is loaded and planned for, as far as the command line does not say it."""
    from shoal.api.speech import SPEECH_DEFAULTS  # with all that decodes sound

    given = {name: value for name, value in SPEECH_DEFAULTS.items() if not option_values.is_given(context, name)}
    return cast(LaunchOptions, given)


def language_config(
    context: typer.Context,
    model: str,
    *,
    is_rough: bool = False,
    settings_suffice: bool = False,
    in_process: bool = True,
    **own: Unpack[LaunchOptions],
) -> LaunchConfig:
    """The configuration for the options that a command has; `shoal.LLM` takes them under the same names.

    Args:
        context: of the command.
        model: as the user named it.
        is_rough: see `PlanningConfig`.
        settings_suffice: see `PlanningConfig`.
        in_process: see `LaunchConfig`.
        own: what the command decides itself, in the place of its options.

    Raises:
        ConfigError: an option's value makes no sense, or two options contradict each other.
    """
    said = {name: value for name, value in context.params.items() if name in LaunchOptions.__annotations__}
    if option_values.given_plan(context, said.pop("plan", None)) is not None:
        said["plan"] = context.params["plan"]
        said.pop("split", None)
    if "lora" in said:
        said["lora"] = parse_adapters(said["lora"] or ())
    if "kv_memory" in said:
        said["kv_memory"] = option_values.parse_bytes(said["kv_memory"])
    option_values.are_exact(said.get("activations", "int8"))
    given: dict[str, Any] = said | own
    config = launch_config(model, cast(LaunchOptions, given), is_rough=is_rough)
    planning = replace(config.planning, refresh=context.params.get("refresh", False), settings_suffice=settings_suffice)
    return replace(config, planning=planning, in_process=in_process)

"""Commands whose options are numbers where they are to be, and the examples below their help."""

from __future__ import annotations

from math import isfinite
from typing import Any

from typer.core import TyperCommand

from shoal.errors import ConfigError


def examples(*commands: str) -> str:
    """The end of a command's help: its examples, one a line (a backslash is Markdown's line break)."""
    heading = "Example:" if len(commands) == 1 else "Examples:"
    return "\\\n".join((heading, *commands))


class CheckedCommand(TyperCommand):
    """Refuses NaN and infinity, which no bound of an option keeps out and no wait ends at."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises ConfigError, naming the option that is no finite number."""
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if isinstance(value, float) and not isfinite(value):
                raise ConfigError(f"{parameter.opts[0]} is {value}, but must be a finite number")
        return super().invoke(ctx)

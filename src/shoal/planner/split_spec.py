"""`--split`: what a user can say by hand."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError

FORMS = "1, pp=2, pp=10:20 (layers per stage), dp=2, or dp=2,pp=2"
"""what error messages offer"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    """A split as the user wants it. `str` gives its canonical form, which parses to an equal spec."""

    num_replicas: int = 1
    """data parallel, >= 1"""
    num_stages: int = 1
    """pipeline parallel, stages of each replica, >= 1"""
    stage_layers: tuple[int, ...] | None = None
    """layers of each stage, each >= 1; None: the planner balances them"""

    def __str__(self) -> str:
        parts: list[str] = []
        if self.num_replicas > 1:
            parts.append(f"dp={self.num_replicas}")
        if self.stage_layers is not None and self.num_stages > 1:
            parts.append("pp=" + ":".join(map(str, self.stage_layers)))
        elif self.num_stages > 1:
            parts.append(f"pp={self.num_stages}")
        return ",".join(parts) or "1"


def parse_split(text: str) -> SplitSpec:
    """Read a `--split` value.

    Raises:
        ConfigError: naming the part that is wrong and the forms that are accepted.
    """
    if text.strip() == "1":
        return SplitSpec()
    values: dict[str, str] = {}
    for part in text.split(","):
        axis, _, value = (piece.strip() for piece in part.partition("="))
        _check_axis(axis, part.strip(), text)
        if axis in values:
            raise ConfigError(f"--split {text}: {axis} is given twice")
        values[axis] = value
    num_replicas = _parse_count(values["dp"], f"dp={values['dp']}", text) if "dp" in values else 1
    if ":" not in values.get("pp", ""):
        num_stages = _parse_count(values["pp"], f"pp={values['pp']}", text) if "pp" in values else 1
        return SplitSpec(num_replicas=num_replicas, num_stages=num_stages)
    layers = tuple(_parse_count(piece, f"pp={values['pp']}", text) for piece in values["pp"].split(":"))
    return SplitSpec(num_replicas=num_replicas, num_stages=len(layers), stage_layers=layers)


def _check_axis(axis: str, part: str, text: str) -> None:
    if axis in ("tp", "auto"):
        raise ConfigError(f"--split {text}: {axis} is not available yet; give {FORMS}")
    if axis not in ("dp", "pp"):
        raise ConfigError(f"--split {text}: cannot read {part!r}; give {FORMS}")


def _parse_count(value: str, part: str, text: str) -> int:
    """A number of at least 1, in plain decimal digits."""
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9 or int(digits) < 1:
        raise ConfigError(f"--split {text}: {part!r} needs whole numbers of at least 1; give {FORMS}")
    return int(digits)

"""`--split`: the notation for splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import gcd

from shoal.core.collectives import MAX_RANKS
from shoal.errors import ConfigError

AUTO = "auto"
"""The value for a split that Shoal plans. It cannot be combined with others."""
AXES = ("dp", "pp", "tp", "ep")
FORMS = (
    "auto, 1, pp=2, pp=10:20 (layers per stage), tp=2, tp=3:1 (shares), ep=2, ep=3:1 (whole experts), dp=2, or several "
    "as in dp=2,pp=2,tp=2"
)
"""The forms that error messages offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    """A split that the user gave. `str` gives its canonical form, which parses to an equal spec."""

    num_replicas: int = 1
    """Data parallelism: replicas, >= 1."""
    num_stages: int = 1
    """Pipeline parallelism: stages of each replica, >= 1."""
    stage_layers: tuple[int, ...] | None = None
    """Layers of each stage, each >= 1; None: the planner balances them."""
    shares: tuple[int, ...] = (1,)
    """Tensor parallelism: the relative share of each shard of a stage, each >= 1, without a common factor."""
    expert_shares: tuple[int, ...] | None = None
    """Expert parallelism: the relative share of whole experts of each shard, as `shares`; None: shards have columns of
    every expert."""

    @property
    def num_shards(self) -> int:
        """Shards of each stage."""
        return len(self.shares)

    @property
    def num_workers(self) -> int:
        return self.num_replicas * self.num_stages * self.num_shards

    def __str__(self) -> str:
        parts: list[str] = []
        if self.num_replicas > 1:
            parts.append(f"dp={self.num_replicas}")
        if self.stage_layers is not None and self.num_stages > 1:
            parts.append("pp=" + ":".join(map(str, self.stage_layers)))
        elif self.num_stages > 1:
            parts.append(f"pp={self.num_stages}")
        if self.num_shards > 1 and self.shares != self.expert_shares:
            parts.append(f"tp={_shares_text(self.shares)}")
        if self.expert_shares is not None:
            parts.append(f"ep={_shares_text(self.expert_shares)}")
        return ",".join(parts) or "1"


def _shares_text(shares: tuple[int, ...]) -> str:
    return ":".join(map(str, shares)) if len(set(shares)) > 1 else str(len(shares))


def parse_split(text: str) -> SplitSpec:
    """Parse a `--split` value.

    Raises:
        ConfigError: the value is invalid. The message names the wrong part and the accepted forms.
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
    stages = _parse_counts("pp", values.get("pp", "1"), text)
    shares, expert_shares = _parse_shards(values, text)
    return SplitSpec(
        num_replicas=num_replicas,
        num_stages=len(stages) if len(stages) > 1 else stages[0],
        stage_layers=tuple(stages) if len(stages) > 1 else None,
        shares=shares,
        expert_shares=expert_shares,
    )


def _check_axis(axis: str, part: str, text: str) -> None:
    if axis == AUTO:
        raise ConfigError(f"--split {text}: auto plans the whole split and must stand alone; give {FORMS}")
    if axis not in AXES:
        close = get_close_matches(axis, (AUTO, *AXES), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"--split {text}: cannot read {part!r}{hint}; give {FORMS}")


def _parse_shards(values: Mapping[str, str], text: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Parse the shares of everything and of whole experts; `ep` alone gives both."""
    shares = _parse_shares("tp", values.get("tp", "1"), text)
    experts = _parse_shares("ep", values["ep"], text) if "ep" in values else (1,)
    if len(experts) == 1 and ("ep" not in values or len(shares) == 1):
        return shares, None
    if "tp" in values and len(shares) != len(experts):
        raise ConfigError(
            f"--split {text}: ep={values['ep']} deals experts to {len(experts)} shards, and tp={values['tp']} makes "
            f"{len(shares)}; give both the same number, or ep alone"
        )
    return (shares if "tp" in values else experts), experts


def _parse_shares(axis: str, value: str, text: str) -> tuple[int, ...]:
    """Parse shares: `3` is three equal ones, `3:1` two unequal ones."""
    counts = _parse_counts(axis, value, text)
    num_shards = len(counts) if len(counts) > 1 else counts[0]
    if num_shards > MAX_RANKS:
        raise ConfigError(f"--split {text}: {axis}={value} makes {num_shards} shards; there can be at most {MAX_RANKS}")
    shares = counts if len(counts) > 1 else [1] * num_shards
    common = gcd(*shares)
    return tuple(share // common for share in shares)


def _parse_counts(axis: str, value: str, text: str) -> list[int]:
    """Parse one number, or several separated by colons."""
    return [_parse_count(piece, f"{axis}={value}", text) for piece in value.split(":")]


def _parse_count(value: str, part: str, text: str) -> int:
    """Parse a number of at least 1 in plain decimal digits."""
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9 or int(digits) < 1:
        raise ConfigError(f"--split {text}: {part!r} needs whole numbers of at least 1; give {FORMS}")
    return int(digits)

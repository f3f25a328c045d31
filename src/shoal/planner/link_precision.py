"""At which precision hidden states go from machine to machine: a lower one only where the links hold the plan back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.errors import ConfigError
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.hidden_codec import LINK_PRECISIONS, LinkPrecision, hidden_bytes

AUTO = "auto"
_PAYS = 1.1
"""A lower precision is taken where the plan is better by this factor. It changes what the model says, if little, and
predictions err by a few per cent: a judgment."""
_VALUES = 1 << 10
"""of a row, to compare sizes by"""


def parse_link_precisions(text: str) -> Sequence[LinkPrecision]:
    """What may be chosen from, the exact one first. Raises ConfigError."""
    if text == AUTO:
        return LINK_PRECISIONS
    for precision in LINK_PRECISIONS:
        if text == precision:
            return (precision,)
    raise ConfigError(f"unknown link precision {text!r}: use one of {', '.join((AUTO, *LINK_PRECISIONS))}")


def over_links(fleet: Fleet, precision: LinkPrecision) -> Fleet:
    """The fleet as it is where hidden states take less of its links. Sums of tensor groups stay in fp32."""
    smaller = hidden_bytes(1, _VALUES, "fp32") / hidden_bytes(1, _VALUES, precision)
    links = tuple(tuple(replace(link, bytes_per_s=smaller * link.bytes_per_s) for link in row) for row in fleet.links)
    return replace(fleet, links=links)


def pays(score: float, more_exact: float) -> bool:
    """Whether a plan is so much better than one with more exact links that these are worth giving up."""
    return score >= _PAYS * more_exact

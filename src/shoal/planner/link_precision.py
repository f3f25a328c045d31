"""The precision of hidden states between machines: a lower one is used only if the links limit the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.errors import ConfigError
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.hidden_codec import LINK_PRECISIONS, LinkPrecision, hidden_bytes

AUTO = "auto"
_PAYS = 1.1
"""A lower precision is used if the plan's score is higher by this factor. A judgment: it changes outputs a little, and
predictions err by a few per cent."""
_VALUES = 1 << 10
"""Values of a row, by which sizes are compared."""


def parse_link_precisions(text: str) -> Sequence[LinkPrecision]:
    """Parse `--link-precision`. Returns the precisions to choose from, the exact one first. Raises ConfigError."""
    if text == AUTO:
        return LINK_PRECISIONS
    for precision in LINK_PRECISIONS:
        if text == precision:
            return (precision,)
    raise ConfigError(f"unknown link precision {text!r}: use one of {', '.join((AUTO, *LINK_PRECISIONS))}")


def over_links(fleet: Fleet, precision: LinkPrecision) -> Fleet:
    """The fleet with links that are faster by the smaller size of hidden states. Sums of tensor groups stay in fp32."""
    smaller = hidden_bytes(1, _VALUES, "fp32") / hidden_bytes(1, _VALUES, precision)
    links = tuple(tuple(replace(link, bytes_per_s=smaller * link.bytes_per_s) for link in row) for row in fleet.links)
    return replace(fleet, links=links)


def pays(score: float, more_exact: float) -> bool:
    """Whether a plan's score justifies less exact links. `more_exact`: the score of the plan with more exact ones."""
    return score >= _PAYS * more_exact

"""The fault file of a simulation, which says what goes wrong and when.

faults:
  - {at_s: 60, machine: server-3, kind: kill}       # its worker dies and is started again
  - {at_s: 120, replica: 0, worker: 1, kind: hang}   # stage by stage, rank by rank
  - {at_s: 300, machine: server-5, kind: cable}     # the machine is gone ...
  - {at_s: 900, machine: server-5, kind: return}    # ... and is there again
"""

from __future__ import annotations

from math import isfinite
from typing import Literal, get_args

import msgspec

from shoal.errors import ConfigError, while_reading
from shoal.planner.files.yaml_text import parse_yaml

FaultKind = Literal["kill", "hang", "cable", "return"]
_MOST_FAULTS = 100_000


class DescribedFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault of one machine, with all workers on it, or of one worker."""

    at_s: float
    """Seconds since the beginning of the traffic."""
    kind: FaultKind
    machine: str | None = None
    """The machine's name in the plan."""
    replica: int | None = None
    worker: int | None = None
    """The index of the replica's worker, counted stage by stage and rank by rank."""


class FaultFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a fault file."""

    faults: tuple[DescribedFault, ...]


def parse_fault_file(text: str, name: str) -> tuple[DescribedFault, ...]:
    """Parse and check a fault file.

    Args:
        text: the YAML text.
        name: the name of the file, for messages.

    Returns:
        The faults, ordered by time.

    Raises:
        ConfigError: the file is invalid. The message says, in one line, what is wrong and where.
    """
    content = parse_yaml(text, name)
    if content is None:
        raise ConfigError(f"{name} is empty; give `faults:` with a list, or `faults: []` for none")
    with while_reading(name, ConfigError):
        try:
            faults = msgspec.convert(content, FaultFile, strict=False).faults
        except msgspec.ValidationError as error:
            kinds = f"; the kinds are {', '.join(get_args(FaultKind))}" if "enum" in str(error) else ""
            raise ConfigError(f"{name}: {error}{kinds}") from error
        if len(faults) > _MOST_FAULTS:
            raise ConfigError(f"{name}: more than {_MOST_FAULTS} faults")
        for number, fault in enumerate(faults, 1):
            _check(fault, f"{name}: fault {number}")
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _check(fault: DescribedFault, what: str) -> None:
    if not isfinite(fault.at_s) or fault.at_s < 0:
        raise ConfigError(f"{what}: at_s is {fault.at_s:g}, but it must be at least 0")
    names_worker = fault.replica is not None and fault.worker is not None
    if (fault.machine is not None) == names_worker or (fault.replica is None) != (fault.worker is None):
        raise ConfigError(f"{what}: give either machine: NAME, or replica: N and worker: N")

"""The cluster file, which describes machines: those at hand, which are measured, and imagined ones.

machines:
  - name: here              # cores of this machine; measured
    cpus: [0]
  - name: busy              # the same, of which Shoal may take half
    cpus: [1]
    cpu_quota: 0.5
  - name: server            # eight machines that are described, not measured
    count: 8
    cores: 32
    memory: 256G
    rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12, int8_flops_per_s: 3e12, int4_flops_per_s: 3e12}
    price_per_hour: 1.20  # of each, for costs
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}     # between any two, unless said otherwise
links:
  - {between: [here, server], latency_s: 1e-3, bytes_per_s: 1.25e7, back_bytes_per_s: 2.5e6}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from math import isfinite

import msgspec

from shoal.config import parse_size
from shoal.core.plan.devices.device_text import parse_device, parse_float_precision
from shoal.errors import ConfigError, while_reading
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.protocol.device_config import DeviceConfig

_MAX_MACHINES = 100_000
_LEAST_RATE = 1.0
"""A byte or an operation a second. A judgment: nothing that computes is slower."""


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of a described machine, using all its cores."""

    memory_bytes_per_s: float
    """Bytes per second when weights are read."""
    fp32_flops_per_s: float
    """Floating-point operations per second of a matrix product, 2 per multiply-add."""
    int8_flops_per_s: float | None = None
    """The rate with 8-bit weights; None: as fp32."""
    int4_flops_per_s: float | None = None
    """The rate with 4-bit weights; None: as with 8-bit ones."""


class DescribedMachine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One machine, or several equal ones: at hand (`cpus`, or a `device` of this machine), or described (`cores`,
    `memory` and `rates`, which are those of its device if it has one)."""

    name: str
    count: int = 1
    """The number of equal machines; 1 for a machine at hand."""
    cpus: tuple[int, ...] | None = None
    """CPU ids of this computer that one worker uses."""
    cpu_quota: float | None = None
    """The share of the time of those CPUs that the worker may use, in (0, 1]."""
    cores: int | None = None
    memory: int | str | None = None
    """Memory for weights and KV; None: the free memory of a machine at hand."""
    rates: Rates | None = None
    price_per_hour: float | None = None
    """The price of one such machine, in any currency; None: costs do not include it."""

    device: str | None = None
    """The device of its worker, as in `--device`; None: the processor."""
    provider_options: Mapping[str, str] | None = None
    """Options for the device's provider."""
    device_precision: str = "fp32"
    """The precision of a language model's floats on the device: fp32 or fp16."""
    python: str | None = None
    """The path of the Python that runs the worker; only for a machine at hand."""

    @property
    def is_local(self) -> bool:
        """Whether it is at hand: a part of this computer."""
        return self.cpus is not None or (self.device is not None and self.rates is None)

    @property
    def device_config(self) -> DeviceConfig | None:
        """The device with its options and memory; None: the processor. Raises ConfigError if a value is invalid."""
        found = None if self.device is None else parse_device(self.device, f"machine {self.name}: device")
        options = tuple((self.provider_options or {}).items())
        precision = parse_float_precision(self.device_precision, f"machine {self.name}: device_precision")
        return found and replace(found, options=options, memory_bytes=self.memory_bytes, precision=precision)

    @property
    def memory_bytes(self) -> int | None:
        """The memory as a number of bytes. Raises ConfigError if it is no size."""
        return None if self.memory is None else parse_size(self.memory, f"machine {self.name}: memory")


class DescribedLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link between any two machines without an entry of their own."""

    latency_s: float
    bytes_per_s: float


class PairLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link between the machines of two entries, or among those of one."""

    between: tuple[str, str]
    latency_s: float
    bytes_per_s: float
    """Bandwidth from the first to the second."""
    back_bytes_per_s: float | None = None
    """Bandwidth from the second to the first; None: the same."""


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a cluster file."""

    machines: tuple[DescribedMachine, ...]
    link: DescribedLink | None = None
    links: tuple[PairLink, ...] = ()

    def links_between(self) -> tuple[tuple[LinkSpeed, ...], ...]:
        """Links [from machine][to machine], in the file's order; the diagonal is for two machines of one entry."""
        given: dict[tuple[str, str], LinkSpeed] = {}
        for link in self.links:
            one, other = link.between
            given[one, other] = LinkSpeed(latency_s=link.latency_s, bytes_per_s=link.bytes_per_s)
            back = link.back_bytes_per_s or link.bytes_per_s
            given.setdefault((other, one), LinkSpeed(latency_s=link.latency_s, bytes_per_s=back))
        names = [machine.name for machine in self.machines]
        default = self.link and LinkSpeed(latency_s=self.link.latency_s, bytes_per_s=self.link.bytes_per_s)
        return tuple(tuple(given.get((one, other)) or default or _NO_LINK for other in names) for one in names)


_NO_LINK = LinkSpeed(latency_s=float("inf"), bytes_per_s=1.0)
"""The link within an entry that has only one machine."""


def parse_cluster_file(text: str, name: str, *, is_whole: bool = True) -> ClusterFile:
    """Parse and check a cluster file.

    Args:
        text: the YAML text.
        name: the name of the file, for messages.
        is_whole: whether to check that links reach all machines and no others; otherwise call `check_links` later.

    Raises:
        ConfigError: the file is invalid. The message says, in one line, what is wrong, where, and what would be right.
    """
    from shoal.planner.files.yaml_text import parse_yaml  # imports PyYAML, which is needed only for such files

    content = parse_yaml(text, name)
    with while_reading(name, ConfigError):
        try:
            cluster = msgspec.convert(content, ClusterFile, strict=False)  # YAML 1.1 reads 1e9 as a string
            _check_machines(cluster.machines)
            if is_whole:
                check_links(cluster)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name}: {error}{_hint(str(error))}") from error
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return cluster


def _hint(message: str) -> str:
    """A suggestion of the field that an unknown one was meant to be."""
    if "unknown field" not in message:
        return ""
    unknown = message.split("`")[1]
    fields = {
        field
        for kind in (ClusterFile, DescribedMachine, Rates, DescribedLink, PairLink)
        for field in kind.__struct_fields__
    }
    close = get_close_matches(unknown, fields, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _check_machines(machines: tuple[DescribedMachine, ...]) -> None:
    if not machines:
        raise ConfigError("there are no machines; give at least one entry under machines:")
    names: set[str] = set()
    cpus: dict[int, str] = {}
    for machine in machines:
        if not machine.name or machine.name in names:
            raise ConfigError(f"two machines are named {machine.name!r}; use count: for machines that are alike")
        names.add(machine.name)
        _check_machine(machine)
        for cpu in machine.cpus or ():
            if cpu in cpus:
                raise ConfigError(f"machines {cpus[cpu]} and {machine.name} both take CPU {cpu}")
            cpus[cpu] = machine.name
    if sum(machine.count for machine in machines) > _MAX_MACHINES:
        raise ConfigError(f"there are more than {_MAX_MACHINES} machines")


def _check_machine(machine: DescribedMachine) -> None:
    what = f"machine {machine.name}"
    _check_positive({f"{what}: count": machine.count, f"{what}: memory": machine.memory_bytes})
    price = machine.price_per_hour
    if price is not None and not (isfinite(price) and price >= 0.0):
        raise ConfigError(f"{what}: price_per_hour is {price:g}, but it must be at least 0")
    device = machine.device_config
    if device is None and (machine.provider_options is not None or machine.device_precision != "fp32"):
        name = "device_precision" if machine.provider_options is None else "provider_options"
        raise ConfigError(f"{what}: {name} can only be given with a device")
    if machine.python is not None and (device is None or not machine.is_local):
        raise ConfigError(f"{what}: python can only be given for a device of this machine")
    if machine.is_local:
        if machine.count != 1 or machine.cores is not None or machine.rates is not None:
            raise ConfigError(f"{what}: a machine at hand is measured, so it takes no count, cores or rates")
        if machine.cpus is None and machine.cpu_quota is not None:
            raise ConfigError(f"{what}: cpu_quota can only be given with cpus:")
        if machine.cpus is None:
            return
        if not machine.cpus or len(set(machine.cpus)) < len(machine.cpus) or min(machine.cpus) < 0:
            raise ConfigError(f"{what}: cpus: needs different CPU ids, such as [0, 1]")
        if machine.cpu_quota is not None and not 0.0 < machine.cpu_quota <= 1.0:
            raise ConfigError(f"{what}: cpu_quota is {machine.cpu_quota:g}, but it is a share in (0, 1]")
        return
    missing = [name for name in ("cores", "memory", "rates") if getattr(machine, name) is None]
    if missing:
        raise ConfigError(f"{what}: give {', '.join(missing)}, or cpus: [...] to measure cores of this machine")
    if machine.cpu_quota is not None:
        raise ConfigError(f"{what}: cpu_quota can only be given with cpus:; describe the machine by what it can do")
    rates = {} if machine.rates is None else msgspec.structs.asdict(machine.rates)
    _check_positive({f"{what}: cores": machine.cores})
    _check_rates({f"{what}: {name}": rate for name, rate in rates.items()})


def check_links(cluster: ClusterFile) -> None:
    """Check the links. Raises ConfigError if one is invalid, or if two machines have none."""
    names = [machine.name for machine in cluster.machines]
    if cluster.link is not None:
        _check_link(cluster.link, "link")
    for link in cluster.links:
        what = f"link between {' and '.join(link.between)}"
        for one in link.between:
            if one not in names:
                close = get_close_matches(one, names, n=1)
                raise ConfigError(f"{what}: there is no machine {one}" + (f" (did you mean {close[0]}?)" * bool(close)))
        _check_link(link, what)
        _check_rates({f"{what}: back_bytes_per_s": link.back_bytes_per_s})
    if cluster.link is not None:
        return
    linked = {pair for link in cluster.links for pair in (link.between, link.between[::-1])}
    several = {machine.name for machine in cluster.machines if machine.count > 1}
    for one, other in product(names, names):
        if (one != other or one in several) and (one, other) not in linked:
            raise ConfigError(
                f"nothing says how {one} reaches {other}: add the pair to links:, or give link: for all other pairs"
            )


def _check_link(link: DescribedLink | PairLink, what: str) -> None:
    _check_rates({f"{what}: bytes_per_s": link.bytes_per_s})
    if not (isfinite(link.latency_s) and link.latency_s >= 0.0):
        raise ConfigError(f"{what}: latency_s is {link.latency_s:g}, but it must be at least 0")


def _check_positive(values: Mapping[str, float | None]) -> None:
    """Check that every given value is a number above 0."""
    for what, value in values.items():
        if value is not None and not (isfinite(value) and value > 0):
            raise ConfigError(f"{what} is {value:g}, but it must be more than 0")


def _check_rates(values: Mapping[str, float | None]) -> None:
    """Every rate that is given must be one that ends: seconds of what is slower are infinite, and then nothing fits."""
    for what, value in values.items():
        if value is not None and not (isfinite(value) and value >= _LEAST_RATE):
            raise ConfigError(f"{what} is {value:g}, but it must be at least {_LEAST_RATE:g}")

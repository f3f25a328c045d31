"""Clusters that nobody here owns: a thousand unequal machines, as the scripts about scale describe them."""

from __future__ import annotations

from shoal.planner.files.cluster_file import ClusterFile, DescribedLink, DescribedMachine, Rates

_GB, _TERA = 1e9, 1e12


def _machine(
    name: str, cores: int, memory: str, gb_per_s: float, fp32: float, int8: float, price: float
) -> DescribedMachine:
    rates = Rates(memory_bytes_per_s=gb_per_s * _GB, fp32_flops_per_s=fp32 * _TERA, int8_flops_per_s=int8 * _TERA)
    return DescribedMachine(name=name, cores=cores, memory=memory, rates=rates, price_per_hour=price)


KINDS = {
    _machine("small", 8, "32G", 35, 0.5, 1.5, 0.32): 0.30,
    _machine("middle", 16, "64G", 70, 1.0, 3.0, 0.64): 0.30,
    _machine("large", 32, "128G", 140, 2.0, 6.0, 1.28): 0.20,
    _machine("wide", 64, "256G", 250, 4.0, 16.0, 2.90): 0.12,
    _machine("old", 24, "96G", 60, 0.8, 1.2, 0.50): 0.08,
}
"""Kinds of machines, and the part of a cluster that each is. Rates are of the order that `shoal profile` finds a core
to have (a tenth of a teraflop in fp32, three times that in int8 with VNNI), prices of that of 0.04 an hour a core."""
_LINK = DescribedLink(latency_s=1e-4, bytes_per_s=1.25e9)


def cluster_of(num_machines: int) -> ClusterFile:
    """So many machines, dealt out to the kinds by their parts, the largest remainders first."""
    exact = {kind: part * num_machines for kind, part in KINDS.items()}
    counts = {kind: int(count) for kind, count in exact.items()}
    rest = sorted(KINDS, key=lambda kind: counts[kind] - exact[kind])
    for kind in rest[: num_machines - sum(counts.values())]:
        counts[kind] += 1
    machines = tuple(
        DescribedMachine(
            name=kind.name,
            count=count,
            cores=kind.cores,
            memory=kind.memory,
            rates=kind.rates,
            price_per_hour=kind.price_per_hour,
        )
        for kind, count in counts.items()
        if count
    )
    return ClusterFile(machines=machines, link=_LINK)

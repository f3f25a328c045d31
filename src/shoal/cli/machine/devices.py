"""`shoal devices`: what this machine has to compute with, and what is missing to use it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

if TYPE_CHECKING:
    from shoal.core.plan.devices.description import MachineDevices

EXAMPLE = examples(
    "shoal devices",
    "shoal devices --worker-python ~/webgpu/bin/python --json",
)

_GB = 1e9


def devices(worker_python: options.WorkerPython = None, json: options.Json = False) -> None:
    """List the processor, GPUs and NPUs, the ONNX Runtime providers that reach them, and what they still lack."""
    from shoal.cli.show.output import print_json
    from shoal.config import DevicesConfig
    from shoal.core.plan.devices.description import missing_lines
    from shoal.core.plan.devices.workers import named_pythons
    from shoal.measure.devices.discovery import find_all_devices

    pythons = named_pythons(DevicesConfig(pythons=tuple(worker_python or ())))
    found = find_all_devices([None, *pythons.values()])
    if json:
        usable = [{"name": one.name, **asdict(one)} for one in found.devices]
        print_json({**asdict(found), "devices": usable, "missing": list(missing_lines(found))})
        return
    _show(found, missing_lines(found))


def _show(found: MachineDevices, missing: tuple[str, ...]) -> None:
    from rich.table import Table

    from shoal.cli.show.output import note, print_table

    processor = found.processor
    nodes = [
        f"node {node.number}: CPUs {_span(node.cpus)}, {node.memory_bytes / _GB:.0f} GB" for node in processor.nodes
    ]
    table = Table(title="this machine", title_justify="left")
    for column in ("what", "name", "memory", "driver", "more"):
        table.add_column(column)
    sets = " ".join(processor.instruction_sets)
    table.add_row(
        "processor", processor.name, f"{processor.memory_bytes / _GB:.0f} GB", "", f"{sets}; {'; '.join(nodes)}"
    )
    for one in found.hardware:
        memory = "" if one.memory_bytes is None else f"{one.memory_bytes / _GB:.1f} GB"
        table.add_row(one.kind if one.kind != "cpu" else "software", one.title, memory, one.driver or "none", "")
    print_table(table)
    if found.devices:
        table = Table(title="for --device", title_justify="left")
        for column in ("device", "kind", "name", "provider from", ""):
            table.add_column(column)
        for device in found.devices:
            table.add_row(
                device.name, device.kind, device.title, device.package, "works" if device.problem is None else "fails"
            )
        print_table(table)
    for line in missing:
        note(line)


def _span(cpus: tuple[int, ...]) -> str:
    is_run = cpus == tuple(range(cpus[0], cpus[-1] + 1))
    return f"{cpus[0]}-{cpus[-1]}" if is_run and len(cpus) > 1 else ",".join(map(str, cpus))

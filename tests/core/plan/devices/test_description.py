"""What is said to be missing to use a device."""

from __future__ import annotations

from dataclasses import replace

from shoal.core.plan.devices.description import (
    Hardware,
    MachineDevices,
    NumaNode,
    Processor,
    ProviderDevice,
    missing_lines,
)

PROCESSOR = Processor(name="P", instruction_sets=(), nodes=(NumaNode(number=0, cpus=(0,), memory_bytes=1),))
CARD = Hardware(title="Card", kind="gpu", vendor="nvidia", memory_bytes=1, driver="nvidia 1")
SOFTWARE = Hardware(title="Soft", kind="cpu", vendor="", memory_bytes=1, driver="vulkan 1")
CUDA = ProviderDevice(provider="cuda", index=0, kind="gpu", title="", package="onnxruntime-gpu 1", problem=None)


def missing(*hardware: Hardware, devices: tuple[ProviderDevice, ...] = (), clash: tuple[str, ...] = ()) -> list[str]:
    found = MachineDevices(processor=PROCESSOR, hardware=hardware, devices=devices, clash=clash)
    return list(missing_lines(found))


def test_nothing_is_missing_where_a_provider_reaches_the_card() -> None:
    assert missing(CARD, devices=(CUDA,)) == []


def test_a_card_without_a_provider_names_what_to_install() -> None:
    (line,) = missing(CARD)
    assert line.startswith(
        "Card: no provider for it is at hand; pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_a_card_without_a_driver_names_the_driver() -> None:
    (line,) = missing(replace(CARD, driver=None))
    assert line == "Card: no driver is bound to it; install NVIDIA's driver, so that nvidia-smi lists it"


def test_a_provider_that_fails_says_why_and_does_not_count() -> None:
    broken = replace(CUDA, problem="no CUDA")
    assert missing(CARD, devices=(broken,))[0] == "cuda:0: no CUDA"
    assert len(missing(CARD, devices=(broken,))) == 2


def test_software_is_no_gpu() -> None:
    assert missing(SOFTWARE) == ["no GPU or NPU was found"]


def test_packages_that_share_a_module_are_named() -> None:
    (line,) = missing(CARD, devices=(CUDA,), clash=("onnxruntime 1", "onnxruntime-gpu 2"))
    assert line.startswith("onnxruntime 1 and onnxruntime-gpu 2 share the module name onnxruntime")

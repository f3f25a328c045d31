"""What `--device`, `--provider-option` and `--worker-python` say, and what is wrong with them."""

from __future__ import annotations

import pytest

from shoal.config import DevicesConfig
from shoal.core.plan.devices.device_text import parse_device, parse_options
from shoal.core.plan.devices.workers import chosen_devices, deal_devices, named_pythons
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.protocol.device_config import DeviceConfig

GPU = DeviceConfig(provider="cuda", index=1)


def chosen(*names: str, **more: object) -> tuple[DeviceConfig | None, ...]:
    return chosen_devices(DevicesConfig(names=names, **more), lambda: GPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name"), [("cpu", None), ("webgpu", "webgpu:0"), ("CUDA:2", "cuda:2"), (" openvino:1 ", "openvino:1")]
)
def test_a_device_is_a_provider_and_a_number(text: str, name: str | None) -> None:
    device = parse_device(text)
    assert (None if device is None else device.name) == name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("webgup", "did you mean webgpu"),
        ("tpu9", "there are cpu, gpu, auto, cuda"),
        ("cuda:x", "PROVIDER:INDEX"),
        ("cuda:", "PROVIDER:INDEX"),
        ("cuda:-1", "PROVIDER:INDEX"),
        ("cpu:0", "there is no provider 'cpu'"),
        ("", "there is no provider"),
    ],
)
def test_what_is_no_device_is_refused_with_what_would_be(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_device(text)


def test_options_are_pairs() -> None:
    assert parse_options(["a=1", "b=x=y"]) == (("a", "1"), ("b", "x=y"))
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="--provider-option"):
            parse_options(wrong)


def test_devices_carry_options_and_memory() -> None:
    gpu, cpu = chosen("gpu", "cpu", options=("k=v",), memory_bytes=5)
    assert cpu is None
    assert gpu == DeviceConfig(provider="cuda", index=1, options=(("k", "v"),), memory_bytes=5)


def test_none_and_auto_name_no_device() -> None:
    assert chosen() == chosen("auto") == ()


@pytest.mark.parametrize(
    ("names", "more", "complaint"),
    [
        (("auto", "cpu"), {}, "cannot be combined"),
        (("cpu",), {"options": ("a=1",)}, "mean nothing for cpu"),
        ((), {"memory_bytes": 1}, "go with devices"),
    ],
)
def test_what_contradicts_itself_is_refused(names: tuple[str, ...], more: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        chosen(*names, **more)


def test_pythons_go_by_provider() -> None:
    found = named_pythons(DevicesConfig(pythons=("/a/python", "webgpu=/b=c/python")))
    assert found == {"": "/a/python", "webgpu": "/b=c/python"}
    for wrong in (("nope=/a",), ("webgpu=",), ("/a", "/b")):
        with pytest.raises(ConfigError, match="--worker-python"):
            named_pythons(DevicesConfig(pythons=wrong))


def test_workers_get_devices_in_order() -> None:
    places = [WorkerPlacement(threads=1, cores=(core,)) for core in range(2)]
    config = DevicesConfig(pythons=("cuda=/p",))
    dealt = deal_devices(places, (None, GPU), config)
    assert [(one.device, one.python, one.cores) for one in dealt] == [(None, None, (0,)), (GPU, "/p", (1,))]
    assert [one.device for one in deal_devices(places, (GPU,), config)] == [GPU, GPU]
    assert deal_devices(places, (), config) == places
    with pytest.raises(ConfigError, match="names 3 devices for 2 workers"):
        deal_devices(places, (None, GPU, GPU), config)

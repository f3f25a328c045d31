"""Keyword arguments of `shoal.LLM`: their names, their defaults, and what is wrong with a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

from shoal.config import DevicesConfig, LaunchConfig, PlanningConfig, parse_size
from shoal.errors import ConfigError, InvalidRequest


class DeviceOptions(TypedDict, total=False):
    """What workers compute on: options of `shoal run` and `shoal serve` under the same names."""

    device: str | None
    """what workers compute on: `cpu`, `gpu`, a provider such as `webgpu` or `cuda:1`, or one for each worker, as in
    `cpu,webgpu`; None: `cpu`"""
    provider_option: Sequence[str] | None
    """`KEY=VALUE` for the provider of the device"""
    device_memory: str | int | None
    """that a worker may take of its device: bytes, or a text such as `4G`; None: all there is"""
    worker_python: Sequence[str] | None
    """`PATH` of the Python that runs workers on devices, or `PROVIDER=PATH` for those of one provider"""


class LaunchOptions(DeviceOptions, total=False):
    """How a model is loaded and split: the options of `shoal run` and `shoal serve` under the same names."""

    split: str
    """`auto` (the default: measure and choose), `1`, `pp=2`, `pp=10:20`, `tp=3:1`, `dp=2,tp=2`, ..."""
    plan: str | Path | None
    """a plan file from `shoal plan -o FILE`, in the place of a split"""
    cluster: str | Path | None
    """`ray`: the machines of the running Ray cluster; or a YAML file that describes machines; None: this machine"""
    link_precision: str
    """of hidden states between machines: `auto` (the default), `fp32`, `fp16` or `int8`"""
    precision: str
    """`auto` (the default) keeps a quantized file's own width; `fp32`, `int8` or `int4`"""
    activations: str
    """what meets quantized weights: `int8` (the default) or `exact`"""
    lora: Mapping[str, str | Path]
    """LoRA adapters by the names that calls give as `adapter`: directories that PEFT has written, or GGUF files"""
    merge_lora: str | Path | None
    """the adapter that is added to the model's weights as they are loaded"""
    no_weight_cache: bool
    """pack weights anew and keep none under ~/.cache/shoal"""
    threads: int | None
    """compute threads of a worker; None shares the machine's cores evenly"""
    max_seqs: int
    """sequences of one replica that may run at once; 32 by default"""
    device_precision: str
    """of floats on devices, keys and values among them: `fp32` (the default) or `fp16`"""
    kv_memory: str | int | None
    """KV cache of all replicas together: bytes, or a text such as `512M`; None: what the model and memory suggest"""
    max_context: int | None
    """longest sequence in tokens, prompt and output together; None: the model's own"""
    objective: str
    """what `auto` plans for: `balanced` (the default), `throughput` or `latency`"""
    streams: int
    """what `auto` plans for: requests that are always under way; 8 by default"""
    prompt_tokens: int
    """what `auto` plans for: prompt tokens of a request; 128 by default"""
    output_tokens: int
    """what `auto` plans for: output tokens of a request; 64 by default"""
    latency_slo: float | None
    """what `auto` plans for: seconds that a request may take under that load; None: any"""
    precision_floor: str | None
    """let stages go down to this precision where that pays"""
    routing: str
    """which replica a request goes to: `earliest-finish` (the default) or `round-robin`"""
    replan: bool
    """move layers between stages whose workers change speed, and use machines that join, where that pays"""
    worker_timeout: float
    """seconds of silence after which a worker is taken for hung; 2 by default, more where steps take long"""


class PictureOptions(TypedDict, total=False):
    """How a model that sees takes pictures: options of `shoal serve` under the same names."""

    mmproj: str | Path | None
    """the vision part of a model in a GGUF file; None: the one file of that name beside the model, if there is one"""
    vision_split: str | None
    """of the vision part, in workers of its own: `1` (the default), `dp=2`, `pp=2`, ...; None: it is not started, and
    the model takes texts alone"""
    allow_remote_media: bool
    """fetch pictures that messages name by http(s) URLs"""


class LLMOptions(LaunchOptions, PictureOptions, total=False):
    """Options of `shoal.LLM`."""


def launch_config(model: str | Path, given: LaunchOptions, *, is_rough: bool = True) -> LaunchConfig:
    """The launch configuration for keyword arguments.

    Args:
        model: as in `LaunchConfig`.
        given: what the caller said.
        is_rough: see `PlanningConfig`.

    Raises:
        ConfigError: an option is unknown, or two of them contradict each other.
    """
    check_names(given, LaunchOptions.__annotations__, ConfigError)
    plan, cluster, kv_memory = given.get("plan"), given.get("cluster"), given.get("kv_memory")
    if plan is not None and "split" in given:
        raise ConfigError("plan takes the place of split; give one of them")
    adapters, merged = given.get("lora") or {}, given.get("merge_lora")
    if "" in adapters:
        raise ConfigError("lora: an adapter needs a name")
    activations = given.get("activations", "int8")
    if activations not in ("int8", "exact"):
        raise ConfigError(f"activations is {activations!r}, but it must be int8 or exact")
    max_seqs = given.get("max_seqs", 32)
    if max_seqs < 1:
        raise ConfigError(f"max_seqs is {max_seqs}, but it must be at least 1")
    return LaunchConfig(
        model=str(model),
        split=given.get("split", "auto"),
        plan_file=None if plan is None else str(plan),
        planning=PlanningConfig(
            objective=given.get("objective", "balanced"),
            streams=given.get("streams", 8),
            prompt_tokens=given.get("prompt_tokens", 128),
            output_tokens=given.get("output_tokens", 64),
            latency_slo_s=given.get("latency_slo"),
            precision_floor=given.get("precision_floor"),
            cluster=None if cluster is None else str(cluster),
            link_precision=given.get("link_precision", "auto"),
            is_rough=is_rough,
        ),
        precision=given.get("precision", "auto"),
        exact_activations=activations == "exact",
        adapters={name: str(path) for name, path in adapters.items()},
        merged_adapter=None if merged is None else str(merged),
        keep_weights=not given.get("no_weight_cache", False),
        threads=given.get("threads"),
        devices=devices_config(given),
        max_seqs=max_seqs,
        kv_memory_bytes=None if kv_memory is None else parse_size(kv_memory, "kv_memory"),
        max_context=given.get("max_context"),
        routing=given.get("routing", "earliest-finish"),
        replans=given.get("replan", False),
    )


def devices_config(given: Mapping[str, Any]) -> DevicesConfig:
    """What options say that are named `device`, `provider_option`, `device_memory`, `device_precision` and
    `worker_python`. Raises ConfigError."""
    names, memory = given.get("device"), given.get("device_memory")
    return DevicesConfig(
        names=() if names is None else tuple(names.split(",")),
        options=tuple(given.get("provider_option") or ()),
        memory_bytes=None if memory is None else parse_size(memory, "--device-memory"),
        precision=given.get("device_precision") or "fp32",
        pythons=tuple(given.get("worker_python") or ()),
    )


def check_names(given: Mapping[str, Any], known: Collection[str], error: type[ConfigError | InvalidRequest]) -> None:
    """Refuse options that nobody knows, with an `error` that suggests the nearest one."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise error(f"there is no option {name}: {hint}")

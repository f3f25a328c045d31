"""Keyword arguments of `shoal.LLM`: their names, their defaults and their checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

from shoal.config import DevicesConfig, LaunchConfig, PlanningConfig, parse_size
from shoal.errors import ConfigError, InvalidRequest


class DeviceOptions(TypedDict, total=False):
    """What workers compute on: the options of `shoal run` and `shoal serve` under the same names."""

    device: str | None
    """`cpu`, `gpu`, a provider such as `webgpu` or `cuda:1`, one name for each worker as in `cpu,webgpu`, or `auto`;
    None means `auto` with `split="auto"` and otherwise `cpu`."""
    provider_option: Sequence[str] | None
    """Options `KEY=VALUE` that are passed to the device's provider."""
    device_memory: str | int | None
    """The most device memory of a worker: bytes, or a text such as `4G`; None means all of it."""
    worker_python: Sequence[str] | None
    """`PATH` of the Python that runs workers on devices, or `PROVIDER=PATH` for the workers of one provider."""


class LaunchOptions(DeviceOptions, total=False):
    """How a model is loaded and split: the options of `shoal run` and `shoal serve` under the same names."""

    split: str
    """`auto` (the default: measure and choose), `1`, `pp=2`, `pp=10:20`, `tp=3:1`, `dp=2,tp=2`, ..."""
    plan: str | Path | None
    """A plan file from `shoal plan -o FILE`, instead of a split."""
    cluster: str | Path | None
    """`ray` for the machines of the running Ray cluster, or a YAML file that describes machines; None: this machine."""
    link_precision: str
    """Precision of hidden states between machines: `auto` (the default), `fp32`, `fp16` or `int8`."""
    precision: str
    """Precision of the weights: `auto` (the default: as the file has them), `fp32`, `int8` or `int4`."""
    activations: str
    """Precision of the activations that meet quantized weights: `int8` (the default) or `exact`."""
    lora: Mapping[str, str | Path]
    """LoRA adapters by the names that calls give as `adapter`: directories written by PEFT, or GGUF files."""
    merge_lora: str | Path | None
    """The adapter that is added to the model's weights while they are loaded."""
    no_weight_cache: bool
    """Whether to pack the weights anew instead of sharing packed weights from ~/.cache/shoal."""
    threads: int | None
    """Compute threads of each worker; None shares the machine's cores evenly."""
    max_seqs: int
    """The most sequences that one replica may run at once; 32 by default."""
    device_precision: str
    """Precision of floats on devices, keys and values included: `fp32` (the default) or `fp16`."""
    kv_memory: str | int | None
    """Memory for the KV caches of all replicas together: bytes, or a text such as `512M`; None: it follows from the
    model and from free memory."""
    max_context: int | None
    """The longest sequence in tokens, prompt and output together; None: the model's own limit."""
    objective: str
    """What `auto` optimizes: `balanced` (the default), `throughput` or `latency`."""
    streams: int
    """The number of requests in progress that `auto` plans for; 8 by default."""
    prompt_tokens: int
    """The prompt tokens of a request that `auto` plans for; 128 by default."""
    output_tokens: int
    """The output tokens of a request that `auto` plans for; 64 by default."""
    latency_slo: float | None
    """The most seconds that a request may take under that load, for `auto`; None: no limit."""
    precision_floor: str | None
    """The lowest precision that a stage may use where that pays off."""
    routing: str
    """How to choose the replica for a request: `earliest-finish` (the default) or `round-robin`."""
    replan: bool
    """Whether to move layers between stages whose workers change speed, and to use machines that join, where that pays
    off."""
    worker_timeout: float
    """Seconds of silence after which a worker counts as hung; 2 by default, longer where steps take long."""


class PictureOptions(TypedDict, total=False):
    """How a model takes pictures: the options of `shoal serve` under the same names."""

    mmproj: str | Path | None
    """The vision part of a GGUF model; None: the mmproj file beside the model, if there is exactly one."""
    vision_split: str | None
    """How to split the vision part, over workers of its own: `1` (the default), `dp=2`, `pp=2`, ...; None: it is not
    started, and the model accepts only texts."""
    allow_remote_media: bool
    """Whether to fetch pictures that messages name by http(s) URLs."""


class LLMOptions(LaunchOptions, PictureOptions, total=False):
    """Options of `shoal.LLM`."""


def launch_config(model: str | Path, given: LaunchOptions, *, is_rough: bool = True) -> LaunchConfig:
    """Make the launch configuration for keyword arguments.

    Args:
        model: as in `LaunchConfig`.
        given: the keyword arguments.
        is_rough: see `PlanningConfig`.

    Raises:
        ConfigError: an option is unknown, or two of them contradict each other.
    """
    check_names(given, LaunchOptions.__annotations__, ConfigError)
    plan, cluster, kv_memory = given.get("plan"), given.get("cluster"), given.get("kv_memory")
    if plan is not None and "split" in given:
        raise ConfigError("plan takes the place of split: give only one of them")
    adapters, merged = given.get("lora") or {}, given.get("merge_lora")
    if "" in adapters:
        raise ConfigError("lora: every adapter needs a name")
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
    """Read the options `device`, `provider_option`, `device_memory`, `device_precision` and `worker_python`. Raises
    ConfigError."""
    names, memory = given.get("device"), given.get("device_memory")
    return DevicesConfig(
        names=() if names is None else tuple(names.split(",")),
        options=tuple(given.get("provider_option") or ()),
        memory_bytes=None if memory is None else parse_size(memory, "--device-memory"),
        precision=given.get("device_precision") or "fp32",
        pythons=tuple(given.get("worker_python") or ()),
    )


def check_names(given: Mapping[str, Any], known: Collection[str], error: type[ConfigError | InvalidRequest]) -> None:
    """Refuse unknown options with an `error` that suggests the nearest known one."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise error(f"there is no option {name}: {hint}")

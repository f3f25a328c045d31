"""What a user can ask for when a model is loaded, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError

_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def cache_root() -> Path:
    """Where things that took long to make are kept. Source: XDG Base Directory Specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shoal"


def parse_size(size: str | int, what: str) -> int:
    """`512M` as a number of bytes; K, M, G, T are powers of 1024. Raises ConfigError, naming `what`."""
    number = str(size).lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        num_bytes = int(float(number.removesuffix(unit)) * _SIZE_UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"{what}: {size!r} is not a size such as 512M or 4G") from None
    if num_bytes <= 0:
        raise ConfigError(f"{what} must be more than 0")
    return num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningConfig:
    """What `--split auto` plans for, and with which machines."""

    objective: str = "balanced"
    """throughput | latency | balanced"""
    streams: int = 1
    """requests that are always under way, >= 1"""
    prompt_tokens: int = 128
    """of a request, >= 1"""
    output_tokens: int = 64
    """of a request, >= 1"""
    latency_slo_s: float | None = None
    """longest time of a whole request under that load; None: any"""
    precision_floor: str | None = None
    """the least precision that a stage may have where that pays; None: only the one that was asked for"""
    cluster: str | None = None
    """`ray`: the machines of the running Ray cluster; or YAML that describes machines; None: this one"""
    link_precision: str = "auto"
    """of hidden states between machines: fp32, fp16 or int8; auto: less than fp32 where the planner finds that it pays
    """
    refresh: bool = False
    """measure anew what was measured before"""
    is_rough: bool = False
    """whether what is not known of this machine may be measured in a hurry: for a command that a person waits for"""
    settings_suffice: bool = False
    """whether a model may be without weights where all machines are described: for plans that are only looked at"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """How to load and split a model."""

    model: str
    """a .gguf file, a Hugging Face directory, hf:org/name or pkg:NAME"""
    split: str = "1"
    """such as `pp=2`, `pp=10:20`, `tp=3:1`, `dp=2,pp=2,tp=2`; `1` for none; `auto`: as `planning` says"""
    plan_file: str | None = None
    """a stored plan, in the place of a split"""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """for `auto`"""
    precision: str = "auto"
    """auto | fp32 | int8 | int4"""
    threads: int | None = None
    """compute threads per worker; None shares the machine's cores evenly"""
    max_seqs: int = 32
    """sequences of one replica that may run at once, >= 1"""
    kv_memory_bytes: int | None = None
    """KV cache of all replicas together; None: see planner/kv_room"""
    max_context: int | None = None
    """longest sequence in tokens; None takes the model's own"""
    max_step_tokens: int = 512
    """rows of the largest flat batch, >= 1"""
    exact_activations: bool = False
    """quantized weights meet activations of 15 bits, not of 8, and keys and values are held in fp32"""
    keep_weights: bool = True
    """whether packed weights are kept under the user's cache, and taken from there"""
    in_process: bool = True
    """whether a plan of one worker computes in the calling process; a server wants it to be restarted when it dies"""
    replans: bool = False
    """whether, while it runs, slowed pipelines are given other layers and machines that join are put to use"""
    routing: str = "earliest-finish"
    """which replica a request goes to: earliest-finish | round-robin"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLaunchConfig:
    """How to load and split an ONNX graph."""

    model: str
    """an .onnx file"""
    split: str = "1"
    """such as `pp=2`, `pp=3:1` (shares of the time), `tp=3:1`, `dp=2,pp=2,tp=2`; `1` for none; `auto`: as `planning`
    says"""
    plan_file: str | None = None
    """a stored plan, in the place of a split"""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """for `auto`: of it, the objective, the latency target (of one micro-batch) and whether to measure anew"""
    micro_batch: int | None = None
    """rows that go through the graph at once, to plan for, >= 1; None: those of the sample"""
    threads: int | None = None
    """compute threads per worker; None shares the machine's cores evenly"""
    batch_dims: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    """batch axis of inputs and outputs, by name, where the graph itself does not tell; None: an input without rows"""
    is_batched: bool = True
    """whether rows of requests may be put together and taken apart, where the graph keeps them apart"""
    in_process: bool = True
    """whether a plan of one worker computes in the calling process; a server wants its own hands free"""

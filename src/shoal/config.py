"""The settings with which a user loads a model, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from shoal.errors import ConfigError

_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST_NEIGHBORS = 10_000
"""Files of a folder among which a near name is looked for: comparing as many takes a tenth of a second."""
_MOST_NAME_CHARACTERS = 255


def cache_root() -> Path:
    """Return the folder in which measurements and packed weights are kept.

    A user without a home has none: the path is then one at which nothing can be created, as on a full disk. Relative
    paths in XDG_CACHE_HOME are ignored. Source: XDG Base Directory Specification.
    """
    for path in (user_path(os.environ.get("XDG_CACHE_HOME", "")), user_path("~/.cache")):
        if path.is_absolute():
            return path / "shoal"
    return Path(os.devnull) / "shoal"


def user_path(name: str | Path) -> Path:
    """Return a path that may begin with `~` or `~user`. If nobody knows that home, it stays as it was given."""
    return Path(os.path.expanduser(name))


def near_file(path: Path) -> str:
    """Return ` (did you mean NAME?)`, for messages, if a file that is not there has a neighbor of nearly its name."""
    try:
        names = [one.name for one in islice(path.parent.iterdir(), _MOST_NEIGHBORS)]
    except OSError:
        return ""
    close = get_close_matches(path.name[:_MOST_NAME_CHARACTERS], names, n=1)
    return f" (did you mean {close[0]}?)" if close and close[0] != path.name else ""


def parse_size(size: str | int, what: str) -> int:
    """Read a size such as `512M` as a number of bytes; K, M, G and T are powers of 1024.

    Raises:
        ConfigError: it is not a size; the message names `what`.
    """
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
    """The load that `--split auto` plans for, and the machines that it may use."""

    objective: str = "balanced"
    """What to optimize: throughput | latency | balanced."""
    streams: int = 1
    """Requests that are always in progress, >= 1."""
    prompt_tokens: int = 128
    """Tokens of a typical prompt, >= 1."""
    output_tokens: int = 64
    """Tokens of a typical answer, >= 1."""
    latency_slo_s: float | None = None
    """The most seconds that a whole request may take under that load; None: no limit."""
    precision_floor: str | None = None
    """The lowest precision that a stage may use where that pays off; None: no stage goes below the given precision."""
    cluster: str | None = None
    """`ray` for the machines of the running Ray cluster, or a YAML file that describes machines; None: this machine."""
    link_precision: str = "auto"
    """Precision of hidden states between machines: fp32 | fp16 | int8 | auto, which goes below fp32 where that pays."""
    refresh: bool = False
    """Whether to measure again what was measured before."""
    is_rough: bool = False
    """Whether a quick look at this machine is enough if nothing is known of it, because a person waits for the
    command."""
    settings_suffice: bool = False
    """Whether a model may lack its weights if all machines are described, because the plan is inspected and not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """What workers compute on: processors, or devices that ONNX Runtime reaches through execution providers."""

    names: tuple[str, ...] = ()
    """`cpu`, `gpu`, `PROVIDER` or `PROVIDER:INDEX` for each worker in the order of the plan, or one name for all of
    them; `auto` alone lets `--split auto` choose. Empty means `auto` with `--split auto` and otherwise `cpu`."""
    options: tuple[str, ...] = ()
    """Options `KEY=VALUE` that are passed to the provider of every device."""
    memory_bytes: int | None = None
    """The most bytes that a worker may take of its device's memory; None: all of it."""
    precision: str = "fp32"
    """Precision of a language model's floats on devices: `fp32` or `fp16`."""
    pythons: tuple[str, ...] = ()
    """`PATH` of the Python that runs the workers on devices, or `PROVIDER=PATH` for those of one provider; empty: the
    Python that runs the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Which model to load and how to split it: the settings that both kinds of models have."""

    model: str
    """An .onnx file, a .gguf file, a Hugging Face directory, hf:org/name or pkg:NAME."""
    split: str = "1"
    """A split such as `pp=2`, `pp=10:20` (layers; for a graph, shares of the time), `tp=3:1` or `dp=2,pp=2,tp=2`; `1`
    for one worker; `auto` to plan for `planning`."""
    plan_file: str | None = None
    """The file of a stored plan, instead of a split."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """What `auto` plans for; for a graph, the latency is that of one micro-batch."""
    threads: int | None = None
    """Compute threads of each worker; None: the machine's cores are shared evenly."""
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    """What workers compute on."""
    in_process: bool = True
    """Whether a single worker computes in the calling process. A server starts a child instead, which it can start
    again and which leaves its event loop free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig(SplitConfig):
    """How to load and split a language model."""

    precision: str = "auto"
    """Precision of the weights: auto | fp32 | int8 | int4."""
    max_seqs: int = 32
    """The most sequences that one replica may run at once, >= 1."""
    kv_memory_bytes: int | None = None
    """Bytes for the KV caches of all replicas together; None: `planner.memory.plan_memory` decides."""
    max_context: int | None = None
    """Tokens of the longest sequence; None: the model's own limit."""
    max_step_tokens: int = 512
    """Rows of the largest step, >= 1."""
    exact_activations: bool = False
    """Whether activations have 15 bits instead of 8 beside quantized weights, and keys and values are held in fp32."""
    keep_weights: bool = True
    """Whether packed weights are kept in the user's cache and reused from there."""
    adapters: Mapping[str, str] = field(default_factory=dict[str, str])
    """LoRA adapters that requests may ask for: directories or GGUF files, by the names that requests give."""
    merged_adapter: str | None = None
    """The adapter that is added to the model's weights while they are loaded; None: none is."""
    replans: bool = False
    """Whether pipelines that slow down get other layers, and machines that join are used."""
    routing: str = "earliest-finish"
    """How a replica is chosen for a request: earliest-finish | round-robin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLaunchConfig(SplitConfig):
    """How to load and split an ONNX graph."""

    micro_batch: int | None = None
    """Rows that go through the graph at once, >= 1; None: as many as the sample has."""
    batch_dims: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    """Batch axes of inputs and outputs by name, where the graph does not tell; None: a tensor without rows."""
    is_batched: bool = True
    """Whether rows of several requests may be computed together if the graph keeps rows apart."""

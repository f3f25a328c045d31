"""Keyword arguments of `shoal.LLM` and of its calls: their names, their defaults, and what is wrong with a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

from shoal.config import LaunchConfig, PlanningConfig, parse_size
from shoal.errors import ConfigError, InvalidRequest
from shoal.generation.data_plane import NUM_SEEDS
from shoal.generation.generation import GenerationSpec
from shoal.protocol.messages import Sampling

DEFAULT_MAX_TOKENS = 512
"""As `shoal run`."""


class LaunchOptions(TypedDict, total=False):
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
    no_weight_cache: bool
    """pack weights anew and keep none under ~/.cache/shoal"""
    threads: int | None
    """compute threads of a worker; None shares the machine's cores evenly"""
    max_seqs: int
    """sequences of one replica that may run at once; 32 by default"""
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


class SamplingOptions(TypedDict, total=False):
    """How a prompt is continued: the names of vLLM, OpenAI and `shoal run`."""

    max_tokens: int | None
    """output tokens at most, and never more than the context leaves; 512 by default; None: what the context leaves"""
    temperature: float
    """0 (the default) is greedy"""
    top_p: float
    """nucleus mass, above 0 and at most 1"""
    top_k: int
    """draw from the k likeliest tokens; 0: all"""
    min_p: float
    """leave out tokens less likely than this share of the likeliest, 0 to 1"""
    presence_penalty: float
    """against tokens that were used, -2 to 2"""
    frequency_penalty: float
    """against tokens by how often they were used, -2 to 2"""
    seed: int | None
    """key of the random stream; continuation i uses seed + i; None: random"""
    stop: str | Sequence[str]
    """texts that end an answer; they are not part of it"""
    stop_token_ids: Collection[int]
    """tokens that end an answer, in addition to the model's own"""
    ignore_eos: bool
    """go on past the model's own end tokens"""
    n: int
    """independent continuations of each prompt; 1 by default"""
    logprobs: int | None
    """log-probabilities of each output token and of so many of the likeliest at its place; None: none"""
    timeout: float | None
    """seconds that each prompt may take, its waiting included; None: any"""


def launch_config(model: str | Path, given: LaunchOptions, *, is_rough: bool = True) -> LaunchConfig:
    """The launch configuration for keyword arguments.

    Args:
        model: as in `LaunchConfig`.
        given: what the caller said.
        is_rough: see `PlanningConfig`.

    Raises:
        ConfigError: an option is unknown, or two of them contradict each other.
    """
    _check_names(given, LaunchOptions.__annotations__, ConfigError)
    plan, cluster, kv_memory = given.get("plan"), given.get("cluster"), given.get("kv_memory")
    if plan is not None and "split" in given:
        raise ConfigError("plan takes the place of split; give one of them")
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
        keep_weights=not given.get("no_weight_cache", False),
        threads=given.get("threads"),
        max_seqs=max_seqs,
        kv_memory_bytes=None if kv_memory is None else parse_size(kv_memory, "kv_memory"),
        max_context=given.get("max_context"),
        routing=given.get("routing", "earliest-finish"),
        replans=given.get("replan", False),
    )


def generation_spec(prompt_ids: tuple[int, ...], given: SamplingOptions, max_context: int) -> GenerationSpec:
    """What to generate for one prompt.

    Args:
        prompt_ids: its tokens.
        given: from `check_sampling`.
        max_context: longest sequence in tokens.
    """
    stop = given.get("stop", ())
    wanted = given.get("max_tokens", DEFAULT_MAX_TOKENS)
    return GenerationSpec(
        prompt_ids=prompt_ids,
        max_tokens=None if wanted is None else max(1, min(wanted, max_context - len(prompt_ids))),
        n=given.get("n", 1),
        sampling=Sampling(
            temperature=given.get("temperature", 0.0),
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k", 0),
            min_p=given.get("min_p", 0.0),
            presence_penalty=given.get("presence_penalty", 0.0),
            frequency_penalty=given.get("frequency_penalty", 0.0),
            num_logprobs=given.get("logprobs"),
        ),
        seed=given.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=frozenset(given.get("stop_token_ids", ())),
        ignore_eos=given.get("ignore_eos", False),
    )


_MAX_COUNT = (1 << 31) - 1
_MAX_LOGPROBS = 20
"""Source: OpenAI API reference, `top_logprobs`; a step's answer carries them for every row."""
_MAX_TIMEOUT_S = 1e9
_RANGES: Mapping[str, tuple[type, float, float, bool]] = {
    "max_tokens": (int, 1, _MAX_COUNT, True),
    "temperature": (float, 0.0, 1e6, False),
    "top_p": (float, 2.0**-149, 1.0, False),
    "top_k": (int, 0, _MAX_COUNT, False),
    "min_p": (float, 0.0, 1.0, False),
    "presence_penalty": (float, -2.0, 2.0, False),
    "frequency_penalty": (float, -2.0, 2.0, False),
    "seed": (int, 0, NUM_SEEDS - 1, True),
    "n": (int, 1, 1024, False),
    "logprobs": (int, 0, _MAX_LOGPROBS, True),
    "timeout": (float, 1e-9, _MAX_TIMEOUT_S, True),
}
"""For each number its type, the least and the greatest, and whether it may be None."""


def check_sampling(given: SamplingOptions) -> SamplingOptions:
    """The same options where all of them make sense. Raises InvalidRequest, which names the first that does not."""
    _check_names(given, SamplingOptions.__annotations__, InvalidRequest)
    values: Mapping[str, Any] = given
    for name, (kind, least, greatest, is_optional) in _RANGES.items():
        if name not in values or (values[name] is None and is_optional):
            continue
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise InvalidRequest(f"{name} is {value!r}, but it must be {_KIND_WORDS[kind]}", param=name)
        if not least <= value <= greatest:
            shown = "above 0 and at most 1" if name == "top_p" else f"from {least:g} to {greatest:g}"
            raise InvalidRequest(f"{name} is {value!r}, but it must be {shown}", param=name)
    stop = values.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
        raise InvalidRequest(f"stop is {stop!r}, but it must be a text, or a list of texts, none empty", param="stop")
    return given


_KIND_WORDS = {int: "a whole number", float: "a number"}


def _check_names(given: Mapping[str, Any], known: Collection[str], error: type[ConfigError | InvalidRequest]) -> None:
    """Refuse options that nobody knows."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise error(f"there is no option {name}: {hint}")

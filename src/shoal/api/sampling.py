"""Keyword arguments of the calls of `shoal.LLM`: their names, their defaults and their checks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict, cast

from shoal.api.options import check_names
from shoal.errors import InvalidRequest
from shoal.generation.call_requests import NUM_SEEDS
from shoal.generation.generation import GenerationSpec
from shoal.generation.seams import Guide
from shoal.model.text.grammar.constraint import Constraint, ConstraintKind, choice_constraint
from shoal.protocol.language_messages import Sampling

DEFAULT_MAX_TOKENS = 512
"""The same as for `shoal run`."""


class SamplingOptions(TypedDict, total=False):
    """How a prompt is continued. The names are those of vLLM, OpenAI and `shoal run`."""

    max_tokens: int | None
    """The most output tokens, never more than the context leaves; 512 by default; None: all that the context leaves."""
    temperature: float
    """The sampling temperature; 0 (the default) is greedy."""
    top_p: float
    """The probability mass of nucleus sampling, above 0 and at most 1."""
    top_k: int
    """The number of likeliest tokens to draw from; 0 draws from all."""
    min_p: float
    """Tokens whose probability is below this share of the likeliest token's are left out; 0 to 1."""
    presence_penalty: float
    """A penalty on tokens that the output already has, -2 to 2."""
    frequency_penalty: float
    """A penalty on tokens in proportion to how often the output has them, -2 to 2."""
    repetition_penalty: float
    """A penalty on tokens that the prompt or the output has: above 1 and at most 2; 1 (the default) means none."""
    repetition_window: int
    """How many of the latest tokens the repetition penalty covers; 0 (the default) means all."""
    logit_bias: Mapping[int, float]
    """Numbers that are added to the logits of tokens, by token id; -100 to 100 each."""
    min_tokens: int
    """The number of output tokens before which nothing ends an answer."""
    seed: int | None
    """The key of the random stream; continuation i uses seed + i; None chooses one at random."""
    stop: str | Sequence[str]
    """Texts that end an answer and are not part of it."""
    stop_token_ids: Collection[int]
    """Tokens that end an answer, in addition to the model's own."""
    ignore_eos: bool
    """Whether to continue past the model's own end tokens."""
    n: int
    """The number of independent continuations of each prompt; 1 by default."""
    logprobs: int | None
    """How many of the likeliest tokens to report at each place, beside the log-probability of the output token itself;
    None reports no log-probabilities."""
    json_schema: Mapping[str, Any] | str | None
    """A JSON schema that the output must satisfy. At most one of `json_schema`, `regex`, `choice` and `grammar` can be
    given."""
    regex: str | None
    """A regular expression, in Rust's syntax, that the whole output must match."""
    choice: Sequence[str] | None
    """Texts of which the output must be one."""
    grammar: str | None
    """A grammar that the output must follow, in the format of Lark or of llama.cpp (GBNF)."""
    adapter: str | None
    """The name of a LoRA adapter that the model was loaded with (`lora=`); None: the model itself."""
    timeout: float | None
    """The most seconds that each prompt may take, including its waiting; None: no limit."""


def generation_spec(prompt_ids: tuple[int, ...], given: SamplingOptions, guides: tuple[Guide, ...]) -> GenerationSpec:
    """Make the specification of what to generate for one prompt.

    Args:
        prompt_ids: the prompt's tokens.
        given: from `check_sampling`.
        guides: one for each continuation if the output is constrained, otherwise empty.
    """
    stop = given.get("stop", ())
    return GenerationSpec(
        prompt_ids=prompt_ids,
        max_tokens=given.get("max_tokens", DEFAULT_MAX_TOKENS),
        min_tokens=given.get("min_tokens", 0),
        n=given.get("n", 1),
        sampling=Sampling(
            temperature=given.get("temperature", 0.0),
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k", 0),
            min_p=given.get("min_p", 0.0),
            presence_penalty=given.get("presence_penalty", 0.0),
            frequency_penalty=given.get("frequency_penalty", 0.0),
            repetition_penalty=given.get("repetition_penalty", 1.0),
            repetition_window=given.get("repetition_window", 0),
            logit_bias=tuple(sorted(given.get("logit_bias", {}).items())),
            num_logprobs=given.get("logprobs"),
        ),
        seed=given.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=frozenset(given.get("stop_token_ids", ())),
        ignore_eos=given.get("ignore_eos", False),
        guides=guides,
    )


def named_constraint(given: SamplingOptions) -> tuple[Constraint, str] | None:
    """The constraint on the output and the option that gave it; None if there is none. Raises InvalidRequest."""
    values: Mapping[str, Any] = given
    names = [name for name in _CONSTRAINTS if values.get(name) is not None]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidRequest(
            f"{names[0]} and {names[1]} cannot both be given: an output has only one constraint", param=names[1]
        )
    (name,) = names
    for other in ("ignore_eos", "min_tokens"):
        if given.get(other):
            raise InvalidRequest(
                f"{other} cannot be combined with {name}, which decides where the output ends", param=other
            )
    value = values[name]
    if name == "choice":
        if isinstance(value, str) or not all(isinstance(text, str) for text in value):
            raise InvalidRequest("choice must be a list of texts", param=name)
        return choice_constraint([*value]), name
    if name == "json_schema" and isinstance(value, Mapping):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {value!r}, but it must be a text", param=name)
    return Constraint(ConstraintKind(name), value), name


_MAX_COUNT = (1 << 31) - 1
_MAX_LOGPROBS = 20
"""Source: OpenAI API reference, `top_logprobs`; a step's answer carries them for every row."""
_MAX_TIMEOUT_S = 1e9
_MAX_BIAS = 100.0
"""Source: OpenAI API reference, `logit_bias`."""
_SMALL = 1e-30
"""A least value below it is shown as "above 0"."""
_RANGES: Mapping[str, tuple[type, float, float, bool]] = {
    "max_tokens": (int, 1, _MAX_COUNT, True),
    "temperature": (float, 0.0, 1e6, False),
    "top_p": (float, 2.0**-149, 1.0, False),
    "top_k": (int, 0, _MAX_COUNT, False),
    "min_p": (float, 0.0, 1.0, False),
    "presence_penalty": (float, -2.0, 2.0, False),
    "frequency_penalty": (float, -2.0, 2.0, False),
    "repetition_penalty": (float, 2.0**-126, 2.0, False),
    "repetition_window": (int, 0, _MAX_COUNT, False),
    "min_tokens": (int, 0, _MAX_COUNT, False),
    "seed": (int, 0, NUM_SEEDS - 1, True),
    "n": (int, 1, 1024, False),
    "logprobs": (int, 0, _MAX_LOGPROBS, True),
    "timeout": (float, 1e-9, _MAX_TIMEOUT_S, True),
}
"""For each number its type, the least and the greatest, and whether it may be None."""


def check_sampling(given: SamplingOptions) -> SamplingOptions:
    """Return the same options if all of them make sense. Raises InvalidRequest, which names the first that does not."""
    check_names(given, SamplingOptions.__annotations__, InvalidRequest)
    values: Mapping[str, Any] = given
    for name, (kind, least, greatest, is_optional) in _RANGES.items():
        if name not in values or (values[name] is None and is_optional):
            continue
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise InvalidRequest(f"{name} is {value!r}, but it must be {_KIND_WORDS[kind]}", param=name)
        if not least <= value <= greatest:
            is_open = 0 < least < _SMALL
            shown = f"above 0 and at most {greatest:g}" if is_open else f"from {least:g} to {greatest:g}"
            raise InvalidRequest(f"{name} is {value!r}, but it must be {shown}", param=name)
    stop = values.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
        raise InvalidRequest(f"stop is {stop!r}, but it must be a text, or a list of texts, none empty", param="stop")
    adapter = values.get("adapter")
    if not isinstance(adapter, str | None):
        raise InvalidRequest(f"adapter is {adapter!r}, but it must be a name", param="adapter")
    _check_bias(values.get("logit_bias", {}))
    named_constraint(given)
    return given


def _check_bias(biases: object) -> None:
    pairs = list(cast(Mapping[Any, Any], biases).items()) if isinstance(biases, Mapping) else [(None, None)]
    for token_id, bias in pairs:
        if type(token_id) is not int or isinstance(bias, bool) or not isinstance(bias, int | float):
            raise InvalidRequest("logit_bias must have a number for each token's id", param="logit_bias")
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:
            raise InvalidRequest(f"logit_bias is {bias!r}, but it must be from -100 to 100", param="logit_bias")


_CONSTRAINTS = ("json_schema", "regex", "choice", "grammar")
_KIND_WORDS = {int: "a whole number", float: "a number"}

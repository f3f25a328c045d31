"""Steps over texts: the inputs of encoders and language models from a chain's values, and their outputs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from shoal.arrays import F32
from shoal.chains.steps import EncoderStep, LanguageStep
from shoal.chains.values import plain_data
from shoal.errors import RequestError

MAX_TEXTS = 4096
"""Most texts of one step."""


async def encode_texts(
    step: EncoderStep,
    encode: Callable[[EncoderStep, Sequence[str], str | None], Awaitable[F32]],
    values: Mapping[str, Any],
) -> Sequence[Any]:
    """Vectors, or the best texts and their scores, one for each of the step's outputs.

    Raises:
        RequestError: a value is not a text, or there are too many.
        ShoalError: as `encode`.
    """
    given = values[step.texts]
    if step.query is None:
        texts = [given] if isinstance(given, str) else given
        vectors_NH = await encode(step, _texts(step, step.texts, texts), None) if texts else np.zeros((0, 0), "f4")
        return [vectors_NH[0] if isinstance(given, str) else vectors_NH]
    (query,) = _texts(step, step.query, [values[step.query]])
    texts = _texts(step, step.texts, given)
    scores_N = await encode(step, texts, query) if texts else np.zeros(0, np.float32)
    order = np.argsort(-scores_N, kind="stable")[: step.top_n]
    return ([texts[place] for place in order.tolist()], scores_N[order])[: len(step.outputs)]


async def answer_prompt(
    step: LanguageStep, answer: Callable[[LanguageStep, str, str], Awaitable[str]], values: Mapping[str, Any]
) -> str:
    """The model's answer to the step's texts, with values inserted. Raises as `answer`."""
    written = {name: _written(value) for name, value in values.items()}
    return await answer(step, step.prompt.format_map(written), step.system.format_map(written))


def _texts(step: EncoderStep, name: str, value: Any) -> list[str]:
    """The texts in a value. Raises RequestError."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in cast(list[object], value)):
        wanted = "a text" if name == step.query else "a text, or a list of texts"
        raise RequestError(f"step {step.name!r}: {name!r} must be {wanted}")
    texts = cast(list[str], value)
    if len(texts) > MAX_TEXTS:
        raise RequestError(f"step {step.name!r}: {name!r} has {len(texts)} texts; at most {MAX_TEXTS}")
    return texts


def _written(value: Any) -> str:
    """A value as text in a prompt: a list has a line for each item."""
    if isinstance(value, str):
        return value
    plain = plain_data(value)
    return "\n".join(map(_written, cast(list[Any], plain))) if isinstance(plain, list) else str(plain)

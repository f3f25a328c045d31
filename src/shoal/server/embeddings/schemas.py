"""The bodies of /v1/embeddings, /v1/rerank and /v1/score, checked.

Sources: OpenAI API reference, "Create embeddings"; Cohere API reference, "Rerank", and Jina's form of it; vLLM's
OpenAI-compatible server, "Score API".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from shoal.errors import InvalidRequest
from shoal.server.openai.body.fields import HARMLESS, check_extra, is_strict
from shoal.server.openai.body.generation_body import MAX_TIMEOUT_S

MAX_TEXTS = 2048
"""Source: OpenAI API reference, `input`."""
MAX_INSTRUCTION_CHARS = 4096
"""An instruction has a sentence or two. A judgment."""


def _texts(value: object) -> object:
    """One or several texts, each as characters or token ids, as a tuple."""
    if isinstance(value, str):
        return (value,)
    items = cast(list[object], value) if isinstance(value, list) else []
    if items and all(type(item) is int for item in items):
        return (tuple(items),)
    if not 0 < len(items) <= MAX_TEXTS:
        raise ValueError(f"must be a text or a list of 1 to {MAX_TEXTS} texts, as strings or as token ids")
    return tuple(_text(item) for item in items)


def _text(item: object) -> object:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and all(type(token_id) is int for token_id in cast(list[object], item)):
        return tuple(cast(list[int], item))
    raise ValueError("every text must be a string or a list of token ids")


def texts_of(value: object) -> object:
    """One or several texts, each a string or an object with a `text`, as a tuple of strings."""
    items = cast(list[object], value) if isinstance(value, list) else [value]
    texts = [cast(dict[str, object], item).get("text") if isinstance(item, dict) else item for item in items]
    if not 0 < len(texts) <= MAX_TEXTS or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'must be 1 to {MAX_TEXTS} texts, each a string or {{"text": "..."}}')
    return tuple(texts)


_Strings = Annotated[tuple[str, ...], BeforeValidator(texts_of)]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Fields that are not implemented: values other than these (and null) are refused."""

    model: str | None = None
    user: str | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """Seconds within which the answer must be finished."""

    @model_validator(mode="after")
    def _check_extra(self, info: ValidationInfo) -> _Schema:
        extra, known = self.model_extra or {}, type(self).model_fields
        check_extra(extra, known, type(self).neutral, HARMLESS, strict=is_strict(info))
        return self


class EmbeddingsBody(_Schema):
    """POST /v1/embeddings."""

    neutral = {
        "add_special_tokens": (True,),
        "embed_dtype": ("float32",),
        "embedding_types": (["float"],),
        "endianness": ("native", "little"),
        "messages": (),
        "normalize": (),
        "output_dtype": ("float",),
        "task": (),
    }

    input: Annotated[tuple[str | tuple[int, ...], ...], BeforeValidator(_texts)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    input_type: Literal["query", "document"] | None = None
    """What the texts are, for models with a prompt for each kind."""
    truncate_prompt_tokens: Literal[-1] | None = None
    """-1: texts that are too long are truncated rather than refused."""


class RerankBody(_Schema):
    """POST /v1/rerank."""

    neutral = {"max_chunks_per_doc": (), "max_tokens_per_doc": (), "rank_fields": (), "truncate_prompt_tokens": (-1,)}

    query: str
    documents: _Strings
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    instruction: Annotated[str, Field(max_length=MAX_INSTRUCTION_CHARS)] | None = None
    """What to look for, for models that accept instructions."""


class ScoreBody(_Schema):
    """POST /v1/score."""

    neutral = {"truncate_prompt_tokens": (-1,), "activation": (True,), "use_activation": (True,)}

    text_1: _Strings
    text_2: _Strings
    instruction: Annotated[str, Field(max_length=MAX_INSTRUCTION_CHARS)] | None = None
    """As in `RerankBody`."""

    @model_validator(mode="after")
    def _check_counts(self) -> ScoreBody:
        if len(self.text_1) not in (1, len(self.text_2)):
            raise InvalidRequest(
                f"{len(self.text_1)} and {len(self.text_2)} texts cannot be paired: give one text_1, or as "
                "many as text_2",
                "text_1",
            )
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of texts to compare."""
        firsts = self.text_1 * len(self.text_2) if len(self.text_1) == 1 else self.text_1
        return list(zip(firsts, self.text_2, strict=True))

"""Completions between two texts: the prompt, and the text that follows (`suffix`)."""

from __future__ import annotations

from dataclasses import replace

from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec
from shoal.model.text.fill_form import FillTokens, find_fill_tokens

_ANCHOR = "\u263a"
"""Text before the following one, so that the tokenizer does not add a space to that. Source: Code Llama's tokenizer."""


async def filling(spec: GenerationSpec, suffix: str, data_plane: DataPlane) -> GenerationSpec:
    """The same call, with the answer between its prompt and the text that follows.

    Raises:
        InvalidRequest: the model has no tokens for this.
        ContextLengthExceeded: the text that follows does not fit.
    """
    tokens = find_fill_tokens(data_plane.tokenizer.added_token_id)
    if tokens is None:
        raise InvalidRequest(
            "this model's tokenizer has no tokens for filling in: `suffix` cannot be used with it", param="suffix"
        )
    (head,) = await data_plane.prompts.encode([""], add_special=True)
    if spec.prompt_ids[: len(head)] != head:
        head = ()
    before = spec.prompt_ids[len(head) :]
    after = await _following(suffix, tokens, data_plane)
    ends = spec.stop_token_ids if spec.ignore_eos else spec.stop_token_ids | tokens.ends
    return replace(spec, prompt_ids=tokens.prompt(head, before, after), stop_token_ids=ends)


async def _following(suffix: str, tokens: FillTokens, data_plane: DataPlane) -> tuple[int, ...]:
    if tokens.is_joined:
        anchor, joined = await data_plane.prompts.encode([_ANCHOR, _ANCHOR + suffix], add_special=False, param="suffix")
        if joined[: len(anchor)] == anchor:
            return joined[len(anchor) :]
    (ids,) = await data_plane.prompts.encode([suffix], add_special=False, param="suffix")
    return ids

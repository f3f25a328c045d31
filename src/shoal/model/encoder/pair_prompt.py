"""Prompts that ask a language model whether a text answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.chat_template import ChatTemplate

_PROBES = ("shoalquery", "shoaldocument")
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN_FORM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n'
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""The prompt that Qwen3-Reranker was trained with. Source: Qwen3 Embedding, arXiv 2506.05176, section 2, and its model
card."""


class PairPrompt(Protocol):
    """Makes prompts from questions and texts. Thread-safe."""

    @property
    def takes_instructions(self) -> bool:
        """Whether a caller may say what to look for."""
        ...

    def render(self, query: str, document: str, instruction: str = "") -> str:
        """One prompt. `instruction`: what to look for, or empty. Raises InvalidRequest if the prompt cannot be made."""
        ...


class FormPrompt:
    """A text with placeholders for its parts. Implements `PairPrompt`."""

    def __init__(self, form: str = _QWEN_FORM) -> None:
        """`form`: a text with {query}, {document} and optionally {instruction}. Raises ModelLoadError if a placeholder
        is missing."""
        for place in ("{query}", "{document}"):
            if place not in form:
                raise ModelLoadError(f"the model's template for ranks has no {place}")
        self._form = form

    @property
    def takes_instructions(self) -> bool:
        """See `PairPrompt`."""
        return "{instruction}" in self._form

    def render(self, query: str, document: str, instruction: str = "") -> str:
        """See `PairPrompt`. Names of placeholders inside a text stay as they are."""
        parts = {"{query}": query, "{document}": document, "{instruction}": instruction or _INSTRUCTION}
        rest, prompt = self._form, ""
        while places := {place: start for place in parts if (start := rest.find(place)) >= 0}:
            place = min(places, key=places.__getitem__)
            prompt += rest[: places[place]] + parts[place]
            rest = rest[places[place] + len(place) :]
        return prompt + rest


class TemplatePrompt:
    """A chat template whose messages have the roles `query` and `document`. Implements `PairPrompt`.

    Source: sentence-transformers, `CrossEncoder` over models that generate text.
    """

    def __init__(self, template: ChatTemplate, variables: Mapping[str, Any], system: str = "") -> None:
        """
        Args:
            template: of the model.
            variables: of the template, as set in the model's files.
            system: the instruction if the caller gives none; may be empty.

        Raises:
            ModelLoadError: the template does not write both texts.
        """
        self._template = template
        self._variables = {"add_generation_prompt": False, **variables}
        self._system = system
        forms = [is_plain for is_plain in (True, False) if self._writes_both(is_plain=is_plain)]
        if not forms:
            raise ModelLoadError(
                "the model's chat template does not write messages of the roles `query` and `document`"
            )
        self._is_plain = forms[0]

    @property
    def takes_instructions(self) -> bool:
        """See `PairPrompt`."""
        return True

    def render(self, query: str, document: str, instruction: str = "") -> str:
        """See `PairPrompt`."""
        return self._render((query, document), instruction or self._system, is_plain=self._is_plain)

    def _render(self, pair: Sequence[str], system: str, *, is_plain: bool) -> str:
        roles = [*(("system", system),) * bool(system), ("query", pair[0]), ("document", pair[1])]
        messages = [
            {"role": role, "content": text if is_plain else [{"type": "text", "text": text}]} for role, text in roles
        ]
        return self._template.render(messages, None, self._variables)

    def _writes_both(self, *, is_plain: bool) -> bool:
        """Whether the template writes both texts. If it writes a list of parts as it is, the result has brackets."""
        try:
            prompt = self._render(_PROBES, "", is_plain=is_plain)
        except InvalidRequest:
            return False
        return all(probe in prompt for probe in _PROBES) and "'text'" not in prompt

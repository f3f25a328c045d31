"""Fields of a body that Shoal does not implement: which are refused, which are ignored, and which are typing errors.

A field that would change the answer is refused unless it has the value that changes nothing. Fields about accounts,
caches or measurements are ignored. Any other name is also ignored, as other servers do, or refused with
`--strict-fields`: if `max_token` is ignored, the answer has another length than was asked for, and nobody learns why
(decision 0014).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationInfo

from shoal.errors import InvalidRequest

NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    # OpenAI
    "audio": (),
    "function_call": ("none", "auto", ""),
    "functions": ([],),
    "modalities": (["text"], []),
    "moderation": (),
    "prediction": (),
    "reasoning": ({},),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM, SGLang
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_decoding_backend": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora_path": (),
    "mm_processor_kwargs": ({},),
    "no_stop_trim": (False,),
    "prompt_embeds": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "separate_reasoning": (True,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "truncate_prompt_tokens": (-1,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    # llama.cpp, Ollama, text-generation-inference
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "lora": ([],),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "n_predict": (-1,),
    "n_probs": (0,),
    "options": ({},),
    "repeat_penalty": (1,),
    "samplers": (),
    "tfs_z": (1,),
    "think": (False,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "typical_p": (1,),
    "xtc_probability": (0,),
}
"""Fields that are not implemented: values other than these (and null) are refused."""
_NEUTRAL_BY_ENDPOINT: dict[str, dict[str, tuple[object, ...]]] = {
    "chat": {"add_special_tokens": (False,), "echo": (False,), "suffix": ("",)},
    "completions": {
        "add_special_tokens": (True,),
        "chat_template_kwargs": ({},),
        "max_completion_tokens": (),
        "parallel_tool_calls": (),
        "reasoning_effort": ("none",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
    },
}

HARMLESS = frozenset(
    {
        "cache_prompt",
        "cache_salt",
        "chat_id",
        "id_slot",
        "keep_alive",
        "kwargs",
        "litellm_call_id",
        "litellm_session_id",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "return_progress",
        "rid",
        "safety_identifier",
        "service_tier",
        "session_id",
        "slot_id",
        "store",
        "timings_per_token",
        "user_id",
    }
)
"""Fields that are ignored whatever their value, because they do not change the answer's text."""
STREAM_OPTIONS_NEUTRAL: dict[str, tuple[object, ...]] = {"continuous_usage_stats": (False,)}
STREAM_OPTIONS_HARMLESS = frozenset({"include_obfuscation"})
MESSAGE_NEUTRAL: dict[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "prefix": (False,),
    "reasoning": ("",),
    "refusal": ("",),
}
MESSAGE_HARMLESS = frozenset({"cache_control", "id", "metadata", "timestamp"})
_MAX_NAME_CHARS = 100


STRICT_FIELDS = "strict_fields"
"""Key in a validation's context: whether unknown fields are refused."""


def is_strict(info: ValidationInfo) -> bool:
    """Whether unknown fields are refused."""
    context: Mapping[str, bool] = info.context or {}  # pyright: ignore[reportUnknownMemberType]
    return context.get(STRICT_FIELDS, False)


def check_fields(extra: Mapping[str, Any], known: Collection[str], endpoint: str, *, strict: bool) -> None:
    """Check the fields of a body that its schema does not have. Raises InvalidRequest, which names the field."""
    neutral = NEUTRAL_VALUES | _NEUTRAL_BY_ENDPOINT[endpoint]
    check_extra(extra, known, neutral, HARMLESS, strict=strict)


def check_extra(
    extra: Mapping[str, Any],
    known: Collection[str],
    neutral: Mapping[str, tuple[object, ...]],
    harmless: Collection[str],
    prefix: str = "",
    *,
    strict: bool,
) -> None:
    """As `check_fields`, for any object.

    Args:
        extra: fields that its schema does not have.
        known: fields that its schema has.
        neutral: fields that are not implemented, with the values that change nothing.
        harmless: fields that are ignored.
        prefix: of field names in errors.
        strict: whether unknown fields are refused.

    Raises:
        InvalidRequest: a field would change the answer, or is unknown.
    """
    for name, value in extra.items():
        if value is None or name in harmless:
            continue
        shown = prefix + name[:_MAX_NAME_CHARS]
        if name not in neutral:
            if not strict:
                continue
            near = get_close_matches(name[:_MAX_NAME_CHARS], [*known, *neutral], n=1)
            hint = f": did you mean `{prefix}{near[0]}`?" if near else ": leave it out"
            raise InvalidRequest(f"`{shown}` is not a field of this endpoint{hint}", param=shown)
        if not any(_is_same(value, one) for one in neutral[name]):
            raise InvalidRequest(f"`{shown}` is not supported by this server: leave it out", param=shown)


def _is_same(value: object, neutral: object) -> bool:
    """Whether the values are equal, and both or neither are truth values: in Python `1 == True`."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral

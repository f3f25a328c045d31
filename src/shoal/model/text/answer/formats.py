"""The formats in which models write calls and reasoning, recognized by chat template or given by name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from shoal.errors import ConfigError
from shoal.model.text.answer.answer import Reader
from shoal.model.text.answer.calls.element_calls import ElementCalls
from shoal.model.text.answer.calls.json_calls import JsonCalls
from shoal.model.text.answer.calls.named_calls import NamedCalls
from shoal.model.text.answer.harmony import harmony

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCalls:
    """Calls as JSON objects with a name and arguments, with markers around them."""

    before: str
    between: str
    behind: str
    argument_key: str = "arguments"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """The format of a family's calls. Sources: the families' published chat templates; parser names of vLLM."""

    name: str
    reader: Reader
    signs: tuple[str, ...]
    """Texts that all occur in the family's chat templates."""
    written: WrittenCalls | None = None
    """How calls are written if the request demands some; None: in Hermes' format, which is then read as well."""
    begins: tuple[str, ...] = ()
    """Markers before the first call, for calls that are not JSON objects with a name and arguments."""
    num_id_chars: int = 24
    """Length of call ids, which some templates check."""


def _deepseek(words: str) -> str:
    """A marker of DeepSeek, with a full-width bar and SentencePiece's underscore."""
    return "<\uff5c" + words.replace(" ", "\u2581") + "\uff5c>"


FORMATS = (
    ToolFormat(name="openai", reader=harmony, signs=("<|channel|>", "<|message|>")),
    ToolFormat(
        name="mistral",
        reader=NamedCalls(section="[TOOL_CALLS]", separator="[ARGS]", may_be_list=True),
        signs=("[TOOL_CALLS]",),
        written=WrittenCalls(before="[TOOL_CALLS][", between=", ", behind="]"),
        num_id_chars=9,
    ),
    ToolFormat(
        name="qwen3_coder",
        reader=ElementCalls(
            begin="<tool_call>",
            name_begin="<function=",
            name_end=">",
            key_begin="<parameter=",
            key_end=">",
            value_end="</parameter>",
            end="</tool_call>",
        ),
        signs=("<function=", "<parameter="),
        begins=("<tool_call>",),
    ),
    ToolFormat(
        name="glm45",
        reader=ElementCalls(
            begin="<tool_call>",
            name_end="<arg_key>",
            key_begin="<arg_key>",
            key_end="</arg_key>",
            value_begin="<arg_value>",
            value_end="</arg_value>",
            end="</tool_call>",
        ),
        signs=("<arg_key>",),
        begins=("<tool_call>",),
    ),
    ToolFormat(
        name="minimax_m2",
        reader=ElementCalls(
            begin="<invoke name=",
            name_end=">",
            key_begin="<parameter name=",
            key_end=">",
            value_end="</parameter>",
            end="</invoke>",
            around=("<minimax:tool_call>", "</minimax:tool_call>"),
        ),
        signs=("<invoke name=",),
        begins=("<minimax:tool_call>", "<invoke name="),
    ),
    ToolFormat(
        name="kimi_k2",
        reader=NamedCalls(
            section="<|tool_calls_section_begin|>",
            begin="<|tool_call_begin|>",
            separator="<|tool_call_argument_begin|>",
            end="<|tool_call_end|>",
            section_end="<|tool_calls_section_end|>",
        ),
        signs=("<|tool_calls_section_begin|>",),
        begins=("<|tool_calls_section_begin|>",),
    ),
    ToolFormat(
        name="deepseek_v3",
        reader=NamedCalls(
            section=_deepseek("tool calls begin"),
            begin=_deepseek("tool call begin"),
            separator=_deepseek("tool sep"),
            end=_deepseek("tool call end"),
            section_end=_deepseek("tool calls end"),
        ),
        signs=(_deepseek("tool calls begin"),),
        begins=(_deepseek("tool calls begin"),),
    ),
    ToolFormat(
        name="phi4_mini_json",
        reader=JsonCalls(begins=("<|tool_call|>", "functools"), end="<|/tool_call|>"),
        signs=("<|tool_call|>", "<|/tool_call|>"),
        written=WrittenCalls(before="<|tool_call|>[", between=", ", behind="]<|/tool_call|>"),
    ),
    ToolFormat(
        name="granite",
        reader=JsonCalls(begins=("<|tool_call|>", "<tool_call>")),
        signs=("<|tool_call|>", "<|start_of_role|>"),
        written=WrittenCalls(before="<|tool_call|>[", between=", ", behind="]"),
    ),
    ToolFormat(
        name="llama3_json",
        reader=JsonCalls(begins=("<|python_tag|>",), is_bare=True),
        signs=("<|eot_id|>", "ipython"),
        written=WrittenCalls(before="", between="; ", behind="", argument_key="parameters"),
    ),
    ToolFormat(
        name="hermes",
        reader=JsonCalls(begins=("<tool_call>",), end="</tool_call>"),
        signs=("<tool_call>",),
        written=WrittenCalls(before="<tool_call>\n", between="\n</tool_call>\n<tool_call>\n", behind="\n</tool_call>"),
    ),
)
"""All formats. A model has the first one whose signs all occur in its template."""
HERMES = FORMATS[-1]
"""The format in which a model is told to write calls if its template ignores tools."""
FORMAT_NAMES = (AUTO, *(one.name for one in FORMATS))


def find_format(name: str, template: str) -> ToolFormat:
    """The format of this name; for `auto`, that of the template, or Hermes' if the template has none. Raises
    ConfigError."""
    if name != AUTO:
        for one in FORMATS:
            if one.name == name:
                return one
        near = get_close_matches(name, FORMAT_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it can be {', '.join(FORMAT_NAMES)}"
        raise ConfigError(f"there is no tool parser {name!r}: {hint}")
    return next((one for one in FORMATS if all(sign in template for sign in one.signs)), HERMES)

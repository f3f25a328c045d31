"""Reads the steps of a chain's file, with a function for each form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from shoal.chains.fields import (
    check_keys,
    read_mapping,
    read_name,
    read_names,
    read_number,
    read_pairs,
    read_path,
    read_text,
)
from shoal.chains.steps import EncoderStep, FunctionStep, GraphStep, LanguageStep, SpeechStep, Step
from shoal.chains.texts import MAX_TEXTS
from shoal.errors import ConfigError
from shoal.model.encoder.find import encoder_name, find_encoder_folder
from shoal.model.encoder.folder import open_encoder

_COMMON = ("name", "each", "outputs")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "model": ("inputs",),
    "call": ("inputs",),
    "encoder": ("texts", "query", "kind", "top_n"),
    "llm": ("prompt", "system", "raw", "sampling", "load"),
    "speech": ("audio", "options", "load"),
}
"""The forms of steps, and the keys of each besides `_COMMON`."""
_FORMS = (
    "`model` (an .onnx file), `call` (FILE.py:FUNCTION), `encoder` (a folder), `llm` (a language model) or `speech` (a "
    "model of speech)"
)


def read_step(data: object, index: int, file: Path) -> Step:
    """Read one step; paths are relative to the folder of `file`. Raises ConfigError, ModelLoadError."""
    place = f"{file}: steps[{index}]"
    fields = read_mapping(data, place)
    forms = [form for form in _KEYS if form in fields]
    if len(forms) != 1:
        check_keys(fields, [*_COMMON, *(key for form, keys in _KEYS.items() for key in (form, *keys))], place)
        raise ConfigError(f"{place}: give exactly one of {_FORMS}")
    (form,) = forms
    check_keys(fields, (form, *_COMMON, *_KEYS[form]), place)
    each = frozenset(read_names(fields.get("each", []), f"{place}.each", may_be_empty=True))
    readers: Mapping[str, Callable[[Mapping[str, Any], Path, str, frozenset[str]], Step]] = {
        "model": _graph,
        "call": _function,
        "encoder": _encoder,
        "llm": _language,
        "speech": _speech,
    }
    step = readers[form](fields, file, place, each)
    if foreign := sorted(each - {*used_by(step)}):
        raise ConfigError(f"{place}.each: {foreign[0]!r} is not an input of this step")
    return step


def used_by(step: Step) -> list[str]:
    """Values that a step uses."""
    return list(step.inputs.values()) if isinstance(step, GraphStep) else list(step.inputs)


def _graph(fields: Mapping[str, Any], file: Path, place: str, each: frozenset[str]) -> GraphStep:
    model = read_path(read_text(fields["model"], f"{place}.model"), file.parent, f"{place}.model")
    if model.suffix != ".onnx":
        raise ConfigError(f"{place}.model: {model} is not an .onnx file")
    return GraphStep(
        name=read_text(fields.get("name", model.stem), f"{place}.name"),
        model=model,
        inputs=read_pairs(fields.get("inputs"), f"{place}.inputs"),
        outputs=read_pairs(fields.get("outputs"), f"{place}.outputs"),
        each=each,
    )


def _function(fields: Mapping[str, Any], file: Path, place: str, each: frozenset[str]) -> FunctionStep:
    source, _, function = read_text(fields["call"], f"{place}.call").rpartition(":")
    if not source.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"{place}.call: give FILE.py:FUNCTION, not {fields['call']!r}")
    return FunctionStep(
        name=read_text(fields.get("name", function), f"{place}.name"),
        file=read_path(source, file.parent, f"{place}.call"),
        function=function,
        inputs=tuple(read_names(fields.get("inputs"), f"{place}.inputs")),
        outputs=tuple(read_names(fields.get("outputs"), f"{place}.outputs")),
        each=each,
    )


def _encoder(fields: Mapping[str, Any], file: Path, place: str, each: frozenset[str]) -> EncoderStep:
    said = read_text(fields["encoder"], f"{place}.encoder")
    where = said if said.startswith(("hf:", "pkg:")) else str(file.parent / said)
    folder = find_encoder_folder(where)
    if folder is None:
        raise ConfigError(f"{place}.encoder: there is no encoder of texts at {where}")
    model_name = encoder_name(where, folder)
    query = read_name(fields["query"], f"{place}.query") if "query" in fields else None
    outputs = tuple(read_names(fields.get("outputs"), f"{place}.outputs"))
    if len(outputs) > (1 if query is None else 2):
        what = "vectors" if query is None else "the best texts and their scores"
        raise ConfigError(f"{place}.outputs: {outputs[-1]!r} is one too many: the step makes {what}")
    if query is None and "top_n" in fields:
        raise ConfigError(f"{place}.top_n: texts are only ranked if there is a `query`")
    encoder = open_encoder(folder)
    if encoder.compares and query is None:
        raise ConfigError(f"{place}: {folder} compares texts, so it needs a `query`")
    top_n = fields.get("top_n")
    return EncoderStep(
        name=read_text(fields.get("name", model_name), f"{place}.name"),
        folder=folder,
        model_name=model_name,
        encoder=encoder,
        texts=read_name(fields.get("texts"), f"{place}.texts"),
        query=query,
        outputs=outputs,
        kind=read_text(fields["kind"], f"{place}.kind") if "kind" in fields else "",
        top_n=None if top_n is None else _count(top_n, f"{place}.top_n"),
        each=each,
    )


def _count(value: Any, place: str) -> int:
    return read_number(value, place, least=1, most=MAX_TEXTS, is_whole=True)


def _language(fields: Mapping[str, Any], file: Path, place: str, each: frozenset[str]) -> LanguageStep:
    model = _model(fields["llm"], file, f"{place}.llm")
    prompt = read_text(fields.get("prompt"), f"{place}.prompt")
    system = read_text(fields["system"], f"{place}.system") if "system" in fields else ""
    is_raw = fields.get("raw", False)
    if not isinstance(is_raw, bool):
        raise ConfigError(f"{place}.raw is true or false, not {is_raw!r}")
    if is_raw and system:
        raise ConfigError(f"{place}.system: a system message is part of a conversation, but `raw` continues plain text")
    (output, *more) = read_names(fields.get("outputs"), f"{place}.outputs")
    if more:
        raise ConfigError(f"{place}.outputs: {more[0]!r} is one too many: the step makes an answer")
    named = [*_named_in(prompt, f"{place}.prompt"), *_named_in(system, f"{place}.system")]
    return LanguageStep(
        name=read_text(fields.get("name", Path(model.rpartition(":")[2]).stem), f"{place}.name"),
        model=model,
        prompt=prompt,
        system=system,
        inputs=tuple(dict.fromkeys(named)),
        outputs=(output,),
        is_raw=is_raw,
        sampling=read_mapping(fields.get("sampling", {}), f"{place}.sampling"),
        load=read_mapping(fields.get("load", {}), f"{place}.load"),
        each=each,
    )


def _speech(fields: Mapping[str, Any], file: Path, place: str, each: frozenset[str]) -> SpeechStep:
    model = _model(fields["speech"], file, f"{place}.speech")
    outputs = tuple(read_names(fields.get("outputs"), f"{place}.outputs"))
    if len(outputs) > 2:
        raise ConfigError(f"{place}.outputs: {outputs[2]!r} is one too many: the step makes a text and its segments")
    return SpeechStep(
        name=read_text(fields.get("name", Path(model.rpartition(":")[2]).stem), f"{place}.name"),
        model=model,
        audio=read_name(fields.get("audio"), f"{place}.audio"),
        outputs=outputs,
        options=read_mapping(fields.get("options", {}), f"{place}.options"),
        load=read_mapping(fields.get("load", {}), f"{place}.load"),
        each=each,
    )


def _model(said: Any, file: Path, place: str) -> str:
    """A model as commands take it, with an absolute path."""
    model = read_text(said, place)
    if model.startswith(("hf:", "pkg:")):
        return model
    path = file.parent / model
    if not path.exists():
        raise ConfigError(f"{place}: there is no file or folder {path}")
    return os.path.abspath(path)


def _named_in(text: str, place: str) -> list[str]:
    """The values that a text names in braces. Raises ConfigError if a pair of braces contains more than a name."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}; write a literal brace twice") from None
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ConfigError(f"{place}: {{{name}}} is not the name of a value; write a literal brace twice")
    return [name for _, name, _, _ in parts if name is not None]

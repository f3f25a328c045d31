"""What a chain consists of, as its file says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from shoal.errors import ConfigError
from shoal.model.formats.model_path import package_file
from shoal.planner.files.yaml_text import parse_yaml

CHAIN_FILE = "chain.yaml"
_MAX_FILE_BYTES = 1 << 20
_CHAIN_KEYS = ("name", "inputs", "steps", "outputs", "workers", "timeout")
_STEP_KEYS = ("name", "model", "call", "each", "inputs", "outputs")
MAX_STEPS = 256


class InputKind(StrEnum):
    """What clients give for an input."""

    IMAGE = "image"
    """a picture file; steps get its pixels, (height, width, 3), RGB, uint8"""
    BYTES = "bytes"
    """the bytes as they are"""
    TEXT = "text"
    """a string"""
    TENSOR = "tensor"
    """an array"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStep:
    """Runs an ONNX graph, together with the same step of other requests."""

    name: str
    model: Path
    inputs: Mapping[str, str]
    """values by the graph's names"""
    outputs: Mapping[str, str]
    """the graph's names by values"""
    each: frozenset[str] = frozenset()
    """values that are lists: the step runs once for every item of them, and its outputs are lists"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStep:
    """Calls a Python function in a process of the chain's own."""

    name: str
    file: Path
    function: str
    inputs: tuple[str, ...]
    """values, given by these names"""
    outputs: tuple[str, ...]
    """what it returns: one value, or as many in a tuple"""
    each: frozenset[str] = frozenset()
    """see `GraphStep.each`"""


Step = GraphStep | FunctionStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Steps in an order in which every value is there before it is used."""

    name: str
    file: Path
    """that describes it"""
    inputs: Mapping[str, InputKind]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    num_workers: int = 1
    """processes for functions"""
    timeout_s: float = 60.0
    """the most that one call of a function may take"""

    @property
    def models(self) -> dict[str, Path]:
        """Graphs by the name that they are served under: their file's."""
        return {step.model.stem: step.model for step in self.steps if isinstance(step, GraphStep)}

    @property
    def files(self) -> list[Path]:
        """Everything that it consists of: its own file, graphs, and files of functions."""
        functions = {step.file for step in self.steps if isinstance(step, FunctionStep)}
        return [self.file, *sorted(self.models.values()), *sorted(functions)]


def places_of(places: Sequence[str], chains: Sequence[Chain]) -> list[str]:
    """Where models lie: those that were named, and the graphs of chains, each once. Raises ConfigError."""
    found = dict.fromkeys(places)
    paths = {Path(place).resolve() for place in places}
    for chain in chains:
        for model in chain.models.values():
            if model.resolve() not in paths:
                paths.add(model.resolve())
                found[str(model)] = None
    names = [chain.name for chain in chains]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two chains have the name {twice!r}")
    return list(found)


def read_chain(place: str | Path) -> Chain:
    """Read a chain's file, or the one in a folder.

    Raises:
        ConfigError: it cannot be read, or does not describe a chain; the message names the place in it.
    """
    path = Path(place)
    file = path / CHAIN_FILE if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"{file} has more than {_MAX_FILE_BYTES:,} bytes, which no chain has")
    return parse_chain(parse_yaml(text, str(file)), file)


def parse_chain(data: object, file: Path) -> Chain:
    """A chain from plain data; paths start from the folder of `file`. Raises ConfigError."""
    fields = _mapping(data, str(file))
    _check_keys(fields, _CHAIN_KEYS, str(file))
    default = file.parent.resolve().name if file.name == CHAIN_FILE else file.stem
    inputs = _inputs(fields.get("inputs"), file)
    chain = Chain(
        name=_text(fields.get("name", default), f"{file}: name"),
        file=file,
        inputs=inputs,
        steps=tuple(_steps(fields.get("steps"), file)),
        outputs=tuple(_names(fields.get("outputs"), f"{file}: outputs")),
        num_workers=_number(fields.get("workers", 1), f"{file}: workers", least=1, is_whole=True),
        timeout_s=_number(fields.get("timeout", 60.0), f"{file}: timeout", least=0.001),
    )
    _check_flow(chain, str(file))
    return chain


def _steps(data: object, file: Path) -> list[Step]:
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{file}: steps must be a list of one or more")
    items = cast(list[object], data)
    if len(items) > MAX_STEPS:
        raise ConfigError(f"{file}: {len(items)} steps: at most {MAX_STEPS}")
    steps = [_step(item, index, file) for index, item in enumerate(items)]
    names = [step.name for step in steps]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{file}: two steps have the name {twice!r}")
    models: dict[str, Path] = {}
    for step in steps:
        if isinstance(step, GraphStep) and models.setdefault(step.model.stem, step.model) != step.model:
            raise ConfigError(f"{file}: {models[step.model.stem]} and {step.model} have the same name: rename one")
    return steps


def _step(data: object, index: int, file: Path) -> Step:
    place = f"{file}: steps[{index}]"
    fields = _mapping(data, place)
    _check_keys(fields, _STEP_KEYS, place)
    if ("model" in fields) == ("call" in fields):
        raise ConfigError(f"{place}: give `model` (an .onnx file) or `call` (FILE.py:FUNCTION), one of them")
    each = frozenset(_names(fields.get("each", []), f"{place}.each", may_be_empty=True))
    step: Step
    if "model" in fields:
        model = _path(_text(fields["model"], f"{place}.model"), file.parent, f"{place}.model")
        if model.suffix != ".onnx":
            raise ConfigError(f"{place}.model: {model} is not an .onnx file")
        inputs = _pairs(fields.get("inputs"), f"{place}.inputs")
        step = GraphStep(
            name=_text(fields.get("name", model.stem), f"{place}.name"),
            model=model,
            inputs=inputs,
            outputs=_pairs(fields.get("outputs"), f"{place}.outputs"),
            each=each,
        )
        used = set(inputs.values())
    else:
        source, _, function = _text(fields["call"], f"{place}.call").rpartition(":")
        if not source.endswith(".py") or not function.isidentifier():
            raise ConfigError(f"{place}.call: give FILE.py:FUNCTION, not {fields['call']!r}")
        names = _names(fields.get("inputs"), f"{place}.inputs")
        step = FunctionStep(
            name=_text(fields.get("name", function), f"{place}.name"),
            file=_path(source, file.parent, f"{place}.call"),
            function=function,
            inputs=tuple(names),
            outputs=tuple(_names(fields.get("outputs"), f"{place}.outputs")),
            each=each,
        )
        used = set(names)
    if foreign := sorted(each - used):
        raise ConfigError(f"{place}.each: {foreign[0]!r} is no input of this step")
    return step


def _check_flow(chain: Chain, file: str) -> None:
    """Every value is made once, before it is used."""
    made = set(chain.inputs)
    for step in chain.steps:
        used = step.inputs.values() if isinstance(step, GraphStep) else step.inputs
        for name in used:
            if name not in made:
                raise ConfigError(f"{file}: step {step.name!r} uses {name!r}, {_unmade(name, made)}")
        for name in step.outputs:
            if name in made:
                raise ConfigError(f"{file}: step {step.name!r} makes {name!r}, which is there already")
            made.add(name)
    for name in chain.outputs:
        if name not in made:
            raise ConfigError(f"{file}: outputs has {name!r}, {_unmade(name, made)}")


def _unmade(name: str, made: set[str]) -> str:
    near = get_close_matches(name, made, n=1)
    return f"which nothing before makes; did you mean {near[0]!r}?" if near else "which nothing before makes"


def _inputs(data: object, file: Path) -> dict[str, InputKind]:
    place = f"{file}: inputs"
    kinds = _mapping(data, place)
    if not kinds:
        raise ConfigError(f"{place} must name one or more, such as `image: image`")
    found: dict[str, InputKind] = {}
    for name, kind in kinds.items():
        try:
            found[_name(name, place)] = InputKind(str(kind))
        except ValueError:
            known = ", ".join(InputKind)
            raise ConfigError(f"{place}.{name}: an input is one of {known}, not {kind!r}") from None
    return found


def _path(text: str, folder: Path, place: str) -> Path:
    path = package_file(text.removeprefix("pkg:")) if text.startswith("pkg:") else folder / text
    if not path.is_file():
        raise ConfigError(f"{place}: there is no file {path}")
    return path


def _mapping(data: object, place: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in cast(dict[object, object], data)):
        raise ConfigError(f"{place} must be KEY: VALUE pairs")
    return cast(dict[str, Any], data)


def _check_keys(fields: Mapping[str, object], known: Sequence[str], place: str) -> None:
    for key in fields:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{place}: there is no key {key!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}")
            )


def _pairs(data: object, place: str) -> dict[str, str]:
    pairs = _mapping(data, place)
    if not pairs:
        raise ConfigError(f"{place} must name one or more")
    return {_text(key, place): _text(value, f"{place}.{key}") for key, value in pairs.items()}


def _names(data: object, place: str, *, may_be_empty: bool = False) -> list[str]:
    items = [data] if isinstance(data, str) else data
    if not isinstance(items, list) or not (items or may_be_empty):
        raise ConfigError(f"{place} must be a list of names")
    names = [_name(item, place) for item in cast(list[object], items)]
    if len(set(names)) < len(names):
        raise ConfigError(f"{place}: a name stands there twice")
    return names


def _name(value: object, place: str) -> str:
    text = _text(value, place)
    if not text.isidentifier():
        raise ConfigError(f"{place}: {text!r} is no name: letters, digits and _, as in Python")
    return text


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{place} must be text, not {value!r}")
    return value


def _number(value: object, place: str, *, least: float, is_whole: bool = False) -> Any:
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if not is_number or cast(float, value) < least:
        raise ConfigError(f"{place} must be {'a whole number' if is_whole else 'a number'} of at least {least:g}")
    return value

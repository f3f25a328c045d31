"""The definition of a chain, as its file gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from shoal.chains.fields import check_keys, read_mapping, read_name, read_names, read_number, read_text
from shoal.chains.read_steps import read_step, used_by
from shoal.chains.steps import EncoderStep, FunctionStep, GraphStep, InputKind, LanguageStep, SpeechStep, Step
from shoal.errors import ConfigError
from shoal.model.file_states import model_files
from shoal.planner.files.yaml_text import read_yaml

CHAIN_FILE = "chain.yaml"
_MAX_FILE_BYTES = 1 << 20
_CHAIN_KEYS = ("name", "inputs", "steps", "outputs", "workers", "timeout", "value_mib")
MAX_STEPS = 256
_MAX_WORKERS = 1024
"""Most processes for functions; each imports what the functions need."""
_MAX_TIMEOUT_S = 86_400.0
"""A day: nobody waits longer."""
_MIB = 1 << 20
_MAX_MIB = 1 << 20
"""One TiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain's steps, in an order in which every value exists before it is used."""

    name: str
    file: Path
    """The file that describes the chain."""
    inputs: Mapping[str, InputKind]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    num_workers: int = 1
    """Processes for functions."""
    timeout_s: float = 60.0
    """Time limit for one call of a function."""
    most_bytes: int = 1 << 30
    """Bytes that the values of one request's steps may take."""

    @property
    def graphs(self) -> dict[str, Path]:
        """Graphs by the name under which they are served: that of their file."""
        return {step.model.stem: step.model for step in self.steps if isinstance(step, GraphStep)}

    @property
    def encoders(self) -> dict[str, Path]:
        """Graphs of text encoders by the name under which they are served: that of their folder."""
        return {step.model_name: step.encoder.graph for step in self.steps if isinstance(step, EncoderStep)}

    @property
    def language_steps(self) -> list[LanguageStep]:
        """Steps in which a language model answers."""
        return [step for step in self.steps if isinstance(step, LanguageStep)]

    @property
    def speech_steps(self) -> list[SpeechStep]:
        """Steps that transcribe speech."""
        return [step for step in self.steps if isinstance(step, SpeechStep)]

    @property
    def models(self) -> dict[str, Path]:
        """All graphs that are served for the chain, by name."""
        return self.graphs | self.encoders

    @property
    def own_models(self) -> list[str]:
        """Language and speech models, which the chain loads itself, as its steps name them."""
        return list(dict.fromkeys(step.model for step in (*self.language_steps, *self.speech_steps)))

    @property
    def files(self) -> list[Path]:
        """All files of the chain: its own file, graphs, language models, and files of functions."""
        functions = {step.file for step in self.steps if isinstance(step, FunctionStep)}
        steps = (*self.language_steps, *self.speech_steps)
        local = {Path(step.model) for step in steps if Path(step.model).exists()}
        language = {file for path in local for file in model_files(path)}
        return [self.file, *sorted(self.models.values()), *sorted(language), *sorted(functions)]


def places_of(places: Sequence[str], chains: Sequence[Chain]) -> list[str]:
    """Paths of models: those that were named, and the graphs of chains, each once. Raises ConfigError."""
    found = dict.fromkeys(places)
    paths = {Path(place).resolve() for place in places}
    for chain in chains:
        for model in chain.graphs.values():
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
        ConfigError: the file cannot be read, or does not describe a chain; the message names the place in it.
    """
    path = Path(place)
    file = path / CHAIN_FILE if path.is_dir() else path
    return parse_chain(read_yaml(file, max_bytes=_MAX_FILE_BYTES, holder="chain"), file)


def parse_chain(data: object, file: Path) -> Chain:
    """A chain from plain data; paths are relative to the folder of `file`. Raises ConfigError."""
    fields = read_mapping(data, str(file))
    check_keys(fields, _CHAIN_KEYS, str(file))
    default = file.parent.resolve().name if file.name == CHAIN_FILE else file.stem
    inputs = _inputs(fields.get("inputs"), file)
    chain = Chain(
        name=read_text(fields.get("name", default), f"{file}: name"),
        file=file,
        inputs=inputs,
        steps=tuple(_steps(fields.get("steps"), file)),
        outputs=tuple(read_names(fields.get("outputs"), f"{file}: outputs")),
        num_workers=read_number(
            fields.get("workers", 1), f"{file}: workers", least=1, most=_MAX_WORKERS, is_whole=True
        ),
        timeout_s=read_number(fields.get("timeout", 60.0), f"{file}: timeout", least=0.001, most=_MAX_TIMEOUT_S),
        most_bytes=_MIB
        * read_number(fields.get("value_mib", 1024), f"{file}: value_mib", least=1, most=_MAX_MIB, is_whole=True),
    )
    _check_flow(chain, str(file))
    return chain


def _steps(data: object, file: Path) -> list[Step]:
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{file}: steps must be a list with at least one step")
    items = cast(list[object], data)
    if len(items) > MAX_STEPS:
        raise ConfigError(f"{file}: {len(items)} steps: at most {MAX_STEPS}")
    steps = [read_step(item, index, file) for index, item in enumerate(items)]
    names = [step.name for step in steps]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{file}: two steps have the name {twice!r}")
    models: dict[str, Path] = {}
    for step in steps:
        if isinstance(step, GraphStep | EncoderStep):
            path = step.model if isinstance(step, GraphStep) else step.folder
            if models.setdefault(step.model_name, path) != path:
                raise ConfigError(f"{file}: {models[step.model_name]} and {path} have the same name: rename one")
    return steps


def _check_flow(chain: Chain, file: str) -> None:
    """Check that every value is made once, before it is used."""
    made = set(chain.inputs)
    for step in chain.steps:
        for name in used_by(step):
            if name not in made:
                raise ConfigError(f"{file}: step {step.name!r} uses {name!r}, {_unmade(name, made)}")
        for name in step.outputs:
            if name in made:
                raise ConfigError(f"{file}: step {step.name!r} makes {name!r}, which exists already")
            made.add(name)
    for name in chain.outputs:
        if name not in made:
            raise ConfigError(f"{file}: outputs has {name!r}, {_unmade(name, made)}")


def _unmade(name: str, made: set[str]) -> str:
    near = get_close_matches(name, made, n=1)
    return f"which nothing before makes; did you mean {near[0]!r}?" if near else "which nothing before makes"


def _inputs(data: object, file: Path) -> dict[str, InputKind]:
    place = f"{file}: inputs"
    kinds = read_mapping(data, place)
    if not kinds:
        raise ConfigError(f"{place} must name at least one input, such as `image: image`")
    found: dict[str, InputKind] = {}
    for name, kind in kinds.items():
        try:
            found[read_name(name, place)] = InputKind(str(kind))
        except ValueError:
            known = ", ".join(InputKind)
            raise ConfigError(f"{place}.{name}: an input is one of {known}, not {kind!r}") from None
    return found

"""What a chain's file may say, and what is said of mistakes in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from shoal.chains.definition import parse_chain, places_of, read_chain
from shoal.chains.steps import FunctionStep, GraphStep, InputKind
from shoal.errors import ConfigError, ModelLoadError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A chain's file beside two models; nothing looks into these."""
    (tmp_path / "a.onnx").touch()
    (tmp_path / "b.onnx").touch()
    (tmp_path / "f.py").touch()
    return tmp_path / "chain.yaml"


def steps(**changes: Any) -> dict[str, Any]:
    first = {"model": "a.onnx", "inputs": {"x": "image"}, "outputs": {"y": "out"}}
    second = {"call": "f.py:cut", "each": ["y"], "inputs": ["y", "image"], "outputs": ["z", "w"]}
    chain = {"inputs": {"image": "image"}, "steps": [first, second], "outputs": ["z"]}
    for path, value in changes.items():
        key, _, rest = path.partition("__")
        if rest:
            chain["steps"][int(key[1:])][rest] = value  # type: ignore[index]
        else:
            chain[key] = value
    return chain


def test_a_chain(file: Path) -> None:
    chain = parse_chain(steps(), file)
    assert (chain.name, chain.inputs) == (file.parent.name, {"image": InputKind.IMAGE})
    first, second = chain.steps
    assert isinstance(first, GraphStep)
    assert isinstance(second, FunctionStep)
    assert (first.name, first.inputs, first.outputs) == ("a", {"x": "image"}, {"y": "out"})
    assert (second.name, second.function, second.each) == ("cut", "cut", {"y"})
    assert chain.models == {"a": file.parent / "a.onnx"}
    assert chain.files == [file, file.parent / "a.onnx", file.parent / "f.py"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": {}}, "must name at least one"),
        ({"inputs": {"image": "picture"}}, "one of image, audio, bytes, text, texts, tensor, not 'picture'"),
        ({"inputs": {"an image": "image"}}, "is not a name"),
        ({"steps": []}, "a list with at least one step"),
        ({"s0__model": "a.gguf"}, "there is no file"),
        ({"s0__model": "f.py"}, "is not an .onnx file"),
        ({"s0__model": "pkg:no_such_package/x.onnx"}, "not installed"),
        ({"s0__call": "f.py:cut"}, "exactly one of"),
        ({"s1__call": "f.py"}, "FILE.py:FUNCTION"),
        ({"s0__modle": 1}, "did you mean 'model'"),
        ({"s0__inputs": {"x": "imaje"}}, "uses 'imaje', which nothing before makes; did you mean 'image'"),
        ({"s1__outputs": ["y", "w"]}, "makes 'y', which exists already"),
        ({"s1__outputs": ["z", "z"]}, "is given twice"),
        ({"s1__each": ["w"]}, "'w' is not an input of this step"),
        ({"s1__name": "a"}, "two steps have the name 'a'"),
        ({"outputs": ["v"]}, "outputs has 'v'"),
        ({"workers": 0}, "a whole number from 1 to 1024"),
        ({"workers": 1 << 40}, "a whole number from 1 to 1024"),
        ({"timeout": "long"}, "a number from 0.001 to 86400"),
        ({"timeout": math.nan}, "a number from 0.001 to 86400"),
        ({"timeout": math.inf}, "a number from 0.001 to 86400"),
    ],
)
def test_mistakes_are_named(file: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ModelLoadError), match=said):
        parse_chain(steps(**changes), file)


@pytest.mark.parametrize("data", [None, [], "x", {"steps": 3}, {1: 2}])
def test_no_chain_at_all(file: Path, data: object) -> None:
    with pytest.raises(ConfigError):
        parse_chain(data, file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_chain(tmp_path)
    (tmp_path / "chain.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_chain(tmp_path)
    (tmp_path / "chain.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_chain(tmp_path)


def test_models_are_served_once(file: Path) -> None:
    chain = parse_chain(steps(), file)
    model = file.parent / "a.onnx"
    assert places_of([], [chain]) == [str(model)]
    assert places_of([str(model), "b.onnx"], [chain]) == [str(model), "b.onnx"]
    with pytest.raises(ConfigError, match="two chains"):
        places_of([], [chain, chain])

"""Options of one model of a server: from the command line and from the file beside the model."""

from pathlib import Path

import pytest

from shoal.cli.graphs.model_options import ModelOptions, options_of, parse_model_options, with_options
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError

NAMES = ("encoder", "decoder")


def test_the_command_line_goes_before_the_file_and_both_are_for_one_model(tmp_path: Path) -> None:
    model = tmp_path / "encoder.onnx"
    (tmp_path / "talk.npz").touch()
    (tmp_path / "encoder.yaml").write_text(
        "batch_dim: {x: 0, state: -1, rate: none}\nsplit: pp=2\nthreads: 3\nmax_batch: 4\n"
        "batch_delay: 0.5\ninputs: talk.npz\n"
    )
    given = parse_model_options(["encoder:max_batch=8", "encoder:batch_delay=0", "decoder:threads=1"], NAMES)
    assert options_of(model, given) == ModelOptions(
        batch_dim=("x=0", "state=-1", "rate=none"),
        split="pp=2",
        threads=3,
        max_batch=8,
        batch_delay=0.0,
        inputs=tmp_path / "talk.npz",
    )
    assert options_of(tmp_path / "decoder.onnx", given) == ModelOptions(threads=1)


def test_in_a_repository_the_version_goes_before_the_model(tmp_path: Path) -> None:
    model = tmp_path / "encoder" / "2" / "model.onnx"
    model.parent.mkdir(parents=True)
    assert options_of(model, {}) == ModelOptions()
    (tmp_path / "encoder" / "shoal.yaml").write_text("split: 1\nbatch_dim: none")
    assert options_of(model, {}) == ModelOptions(split="1", batch_dim=("none",))
    (model.parent / "shoal.yaml").write_text("")
    assert options_of(model, {"encoder": ModelOptions(split="auto")}) == ModelOptions(split="auto")


def test_a_lone_model_is_called_as_the_server_calls_it(tmp_path: Path) -> None:
    given = parse_model_options(["mine:split=dp=2"], ["mine"])
    assert options_of(tmp_path / "encoder.onnx", given, "mine").split == "dp=2"


def test_they_take_the_place_of_the_servers_own() -> None:
    config = GraphLaunchConfig(model="m", split="dp=2", plan_file="p", threads=4, batch_dims={"y": 1})
    assert with_options(config, ModelOptions()) == config
    found = with_options(config, ModelOptions(split="pp=2", threads=1, batch_dim=("x=0", "rate=none")))
    expected = GraphLaunchConfig(model="m", split="pp=2", threads=1, batch_dims={"x": 0, "rate": None})
    assert found == expected
    assert not with_options(config, ModelOptions(batch_dim=("none",))).is_batched


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("encodr:max_batch=8", "there is no model 'encodr'; did you mean 'encoder'"),
        ("encoder:max_bach=8", "there is no option 'max_bach'; did you mean 'max_batch'"),
        ("encoder:max_batch=0", "max_batch is a whole number from 1, not '0'"),
        ("encoder:threads=many", "threads is a whole number from 1, not 'many'"),
        ("encoder:batch_delay=nan", "batch_delay is a number of seconds from 0, not 'nan'"),
        ("encoder:split=pp=x", "pp"),
        ("encoder:inputs=none.npz", r"there is no file none\.npz"),
        ("encoder:batch_dim=x", "give NAME=AXIS"),
        ("encoder", "give NAME:KEY=VALUE"),
        ("max_batch=8", "give NAME:KEY=VALUE"),
    ],
)
def test_what_was_misspelled_is_named_with_the_nearest(item: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_model_options([item], NAMES)
    assert str(error.value).startswith("--model-config encoder") or item in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_given_twice_is_refused_but_for_batch_dims() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        parse_model_options(["encoder:threads=1", "encoder:threads=2"], NAMES)
    assert parse_model_options(["encoder:batch_dim=x=0", "encoder:batch_dim=y=1"], NAMES)["encoder"].batch_dim == (
        "x=0",
        "y=1",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_bach: 8", "there is no option 'max_bach'; did you mean 'max_batch'"),
        ("max_batch: true", "max_batch is a whole number from 1, not True"),
        ("max_batch: 1.5", "max_batch is a whole number"),
        ("max_batch: [1]", "max_batch is a whole number"),
        ("batch_delay: .inf", "batch_delay is a number of seconds"),
        ("batch_dim: [1]", "batch_dim is NAME=AXIS"),
        ("batch_dim: {x: up}", "give NAME=AXIS"),
        ("split: {pp: 2}", "split is such as"),
        ("- max_batch", "give KEY: VALUE"),
        ("max_batch: [", "is not YAML"),
        ("inputs: other.npz", "there is no file"),
        ("inputs: 3", r"inputs is the path of a \.npz file"),
        ("# " + "x" * 70_000, "which no file of options of a model has"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "encoder.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        options_of(tmp_path / "encoder.onnx", {})
    assert str(tmp_path / "encoder.yaml") in str(error.value)
    assert len(str(error.value).splitlines()) == 1

"""Workers on devices of other machines: the Python that reaches a device is the one of its own machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config import DevicesConfig, LaunchConfig
from shoal.errors import ConfigError
from shoal.executor.remote.host import LocalHost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.launch import launch
from tests.integration.leaks import no_leaks
from tests.integration.running import PATIENT, make_requests, transcribe
from tests.model.tiny_models import make_tiny_gguf

pytest.importorskip("cryptography")
REQUESTS = make_requests(3, max_tokens=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


def planned(model: Path, split: str, *names: str, python: str = "") -> PlannedModel:
    devices = DevicesConfig(names=names, pythons=(python,) if python else ())
    return plan_model(
        LaunchConfig(model=str(model), split=split, precision="fp32", threads=1, max_context=256, devices=devices)
    )


def test_a_stage_is_computed_on_a_device_of_its_machine(model: Path, openvino_python: str) -> None:
    with launch(planned(model, "1")) as loaded:
        expected = transcribe(loaded.engine, REQUESTS)
    host = LocalHost("127.0.0.1")
    launcher = RemoteLauncher({"": host})
    with no_leaks():
        with launch(
            planned(model, "pp=2", "cpu", "openvino", python=openvino_python), launcher=launcher, recovery=PATIENT
        ) as loaded:
            found = transcribe(loaded.engine, REQUESTS)
        host.close()
    assert found.tokens == expected.tokens


def test_a_python_that_the_machine_does_not_have_is_one_line(model: Path) -> None:
    host = LocalHost("127.0.0.1")
    with pytest.raises(ConfigError, match=r"--worker-python /no/python on 127\.0\.0\.1: No such file"):
        launch(planned(model, "1", "openvino", python="/no/python"), launcher=RemoteLauncher({"": host}))
    host.close()

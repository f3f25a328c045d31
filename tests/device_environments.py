"""Environments whose ONNX Runtime reaches devices, made once and kept: `python -m tests.device_environments`.

Each is a virtual environment of its own with one more package, which sees the packages of this one behind it: ONNX
Runtime for WebGPU takes the place of the plain one there, the plugin of OpenVINO stands beside it.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-devices"
PACKAGES = {"openvino": "onnxruntime-ep-openvino==1.8.1", "webgpu": "onnxruntime-webgpu==1.27.0"}
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""Vulkan in software. Debian's package chromium brings it."""
_TIMEOUT_S = 100.0


def device_python(provider: str) -> Path:
    """The Python of a provider's environment, which is made where it is not there yet.

    Raises:
        LookupError: it cannot be made here; says why.
    """
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{provider}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = FOLDER / provider
        done = folder / PACKAGES[provider]
        if not done.exists():
            _make(folder, PACKAGES[provider])
            done.touch()
    return folder / "bin" / "python"


def _make(folder: Path, package: str) -> None:
    venv.create(folder, with_pip=False, clear=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), package]
    try:
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise LookupError(f"{package} cannot be installed: {error.stderr.strip().splitlines()[-1:]}") from None
    except subprocess.TimeoutExpired:
        raise LookupError(f"{package} could not be installed within {_TIMEOUT_S:.0f} s") from None
    behind = sysconfig.get_path("purelib")  # with its own .pth files, by which Shoal itself is found
    (packages / "behind.pth").write_text(f"import site; site.addsitedir({behind!r})\n")


def main() -> None:
    """Make all of them."""
    for provider in PACKAGES:
        print(device_python(provider))


if __name__ == "__main__":
    main()

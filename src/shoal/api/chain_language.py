"""The language models and models of speech of chains, each loaded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, cast

from shoal.api.generation import LLM
from shoal.api.options import LaunchOptions, check_names
from shoal.api.sampling import SamplingOptions, check_sampling
from shoal.api.speech import TranscribeOptions, Transcriber
from shoal.arrays import F32
from shoal.chains.definition import Chain
from shoal.chains.steps import LanguageStep, SpeechStep
from shoal.errors import ConfigError, InvalidRequest
from shoal.machines.opening import SharedMachines
from shoal.speech.transcript import Transcript


class LanguageModels:
    """The language models that some chains call. Close them, or use them in a `with` block."""

    def __init__(self, chains: Iterable[Chain], shared: SharedMachines, cluster: str | None = None) -> None:
        """Load every model; steps that name the same one with the same options share it.

        Args:
            chains: which call them.
            shared: opens the machines of a cluster.
            cluster: see `LaunchOptions`; of steps that say none.

        Raises:
            ConfigError: an option of a step makes no sense; ModelLoadError, CapacityError, WorkerLost: as `LLM`.
        """
        chains = list(chains)
        for chain in chains:
            _check(chain)
        self._llms: dict[str, LLM] = {}
        self._transcribers: dict[str, Transcriber] = {}
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for step in (step for chain in chains for step in chain.language_steps):
                key = _key(step)
                if key not in self._llms:
                    load = _load_options(step, cluster)
                    machines = shared.open(_cluster_of(load), step.model)
                    self._llms[key] = LLM.on(machines, step.model, **load)
            for step in (step for chain in chains for step in chain.speech_steps):
                key = _key(step)
                if key not in self._transcribers:
                    load = _load_options(step, cluster)
                    self._transcribers[key] = Transcriber.on(
                        shared.open(_cluster_of(load), step.model), step.model, **load
                    )
            on_failure.pop_all()

    def transcribers_of(self, chain: Chain) -> dict[str, ChainTranscriber]:
        """What transcribes for each of a chain's steps, by their names."""
        return {step.name: ChainTranscriber(self._transcribers[_key(step)]) for step in chain.speech_steps}

    def of(self, chain: Chain) -> dict[str, ChainAnswerer]:
        """What answers each of a chain's steps, by their names."""
        return {step.name: ChainAnswerer(self._llms[_key(step)]) for step in chain.language_steps}

    def close(self) -> None:
        """Stop all of their workers. Idempotent."""
        for model in (*self._llms.values(), *self._transcribers.values()):
            model.close()

    def __enter__(self) -> LanguageModels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ChainAnswerer:
    """Implements `server.oip.chains.served_chain.TextAnswerer`."""

    def __init__(self, llm: LLM) -> None:
        """`llm`: another's."""
        self._llm = llm

    @property
    def failure(self) -> str | None:
        """Why it can answer no more."""
        return self._llm.failure

    async def answer(self, step: LanguageStep, prompt: str, system: str) -> str:
        """See `TextAnswerer`. Without a chat template, and where the step says so, the prompt is continued."""
        options = cast(SamplingOptions, step.sampling)
        if step.is_raw or not self._llm.has_chat_template:
            return (await self._llm.agenerate(f"{system}\n{prompt}" if system else prompt, **options)).text
        messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": prompt}]
        return (await self._llm.achat(messages, **options)).text


class ChainTranscriber:
    """Implements `server.oip.chains.served_chain.SoundTranscriber`."""

    def __init__(self, transcriber: Transcriber) -> None:
        """`transcriber`: another's."""
        self._transcriber = transcriber

    @property
    def failure(self) -> str | None:
        """Why it can transcribe no more."""
        return self._transcriber.failure

    async def transcribe(self, step: SpeechStep, samples_S: F32) -> Transcript:
        """See `SoundTranscriber`."""
        return await self._transcriber.atranscribe(samples_S, **cast(TranscribeOptions, step.options))


def _load_options(step: LanguageStep | SpeechStep, cluster: str | None) -> LaunchOptions:
    load = {**step.load} if cluster is None else {"cluster": cluster, **step.load}
    return cast(LaunchOptions, load)


def _cluster_of(load: LaunchOptions) -> str | None:
    cluster = load.get("cluster")
    return None if cluster is None else str(cluster)


def _key(step: LanguageStep | SpeechStep) -> str:
    return f"{step.model} {sorted(step.load.items())}"


def _check(chain: Chain) -> None:
    """Raises ConfigError before anything is loaded."""
    for step in chain.speech_steps:
        check_names(step.load, LaunchOptions.__annotations__, ConfigError)
        check_names(step.options, TranscribeOptions.__annotations__, ConfigError)
    for step in chain.language_steps:
        place = f"{chain.file}: step {step.name!r}"
        check_names(step.load, LaunchOptions.__annotations__, ConfigError)
        sampling: Mapping[str, Any] = step.sampling
        try:
            check_sampling(cast(SamplingOptions, sampling))
        except InvalidRequest as error:
            raise ConfigError(f"{place}: sampling: {error}") from None
        if sampling.get("n", 1) != 1:
            raise ConfigError(f"{place}: sampling: n must be 1, for the step makes one answer")

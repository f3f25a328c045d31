"""A chain in service: its graphs are models of the repository, and its functions have processes of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from shoal.arrays import F32, Array
from shoal.chains.definition import Chain
from shoal.chains.functions import FunctionPool
from shoal.chains.run import run_chain
from shoal.chains.steps import EncoderStep, FunctionStep, InputKind, LanguageStep, SpeechStep
from shoal.embeddings.graph_encoder import GraphEncoder
from shoal.embeddings.ranking import scores_of
from shoal.errors import DeadlineExceeded, InvalidRequest, RequestError, ShoalError
from shoal.inference.repository import ModelRepository
from shoal.inference.request_counts import RequestCounts
from shoal.inference.value_room import Holding, ValueRoom
from shoal.model.vision.pixels import decode_picture, pixel_bytes
from shoal.speech.sound.audio import decode_audio
from shoal.speech.transcript import Transcript

MAX_SOUND_S = 3600.0
"""The longest sound in seconds; its samples take 230 MB."""
_MOST_SOUND_BYTES = 16_000 * 4 * int(MAX_SOUND_S)
_SOUND_RATIO = 64
"""The most bytes of samples for each byte of a file: speech of 8 kbit/s."""
CHAIN_VERSION = "1"
"""The only version of every chain."""


class TextAnswerer(Protocol):
    """The loaded language model of a step."""

    @property
    def failure(self) -> str | None:
        """Why it cannot answer any more; None while it can."""
        ...

    async def answer(self, step: LanguageStep, prompt: str, system: str) -> str:
        """The answer to a prompt; callable from any event loop. Raises ShoalError."""
        ...


class SoundTranscriber(Protocol):
    """The loaded speech model of a step."""

    @property
    def failure(self) -> str | None:
        """Why it cannot transcribe any more; None while it can."""
        ...

    async def transcribe(self, step: SpeechStep, samples_S: F32) -> Transcript:
        """The transcript of a sound; callable from any event loop. Raises ShoalError."""
        ...


class ServedChain:
    """Serves one chain, in the event loop in which the repository was started."""

    def __init__(
        self,
        chain: Chain,
        repository: ModelRepository,
        answerers: Mapping[str, TextAnswerer] | None = None,
        transcribers: Mapping[str, SoundTranscriber] | None = None,
        clock: Callable[[], float] = time.monotonic,
        room: ValueRoom | None = None,
    ) -> None:
        """Prepare the chain and check its functions.

        Args:
            chain: the chain.
            repository: serves its graphs.
            answerers: language models by the names of their steps; None: there are no such steps.
            transcribers: speech models by the names of their steps; None: there are no such steps.
            clock: gives monotonic seconds.
            room: holds the memory of calls' values; None: one of the usual size.

        Raises:
            MissingExtra: the chain has functions and pebble is not installed.
            ConfigError: a function cannot be called as its step declares.
        """
        self.chain = chain
        self._models = _StepModels(repository, answerers or {}, transcribers or {})
        self.counts = RequestCounts()
        self._repository = repository
        self._clock = clock
        self._pool = _function_pool(chain)
        self._room = room or ValueRoom()

    @property
    def failure(self) -> str | None:
        """Why it cannot answer now; None while all of its models can."""
        try:
            for model in self.chain.models:
                self._repository.get(model)
        except ShoalError as error:
            return str(error)
        return self._models.failure

    async def infer(
        self, given: Mapping[str, Any], timeout_s: float | None = None, call_id: str = ""
    ) -> dict[str, Any]:
        """Compute all outputs of the chain.

        Args:
            given: its inputs as clients give them: files as bytes, texts as strings, tensors as arrays.
            timeout_s: the most time that it may take; None: no limit.
            call_id: its name in the stories of the graphs' replicas.

        Raises:
            InvalidRequest: an input is missing or unknown, or a step cannot use it. DeadlineExceeded, QueueFull: it was
            not finished in time, or too many requests wait.
            RequestError: a step failed.
            WorkerLost: a graph has no workers, or the chain is closed.
        """
        with self.counts.counted(self._clock):
            return await self._infer(given, timeout_s, call_id)

    def close(self) -> None:
        """Stop the functions' processes; other models are not closed. Idempotent."""
        self._models.close()
        if self._pool is not None:
            self._pool.close()

    async def _infer(self, given: Mapping[str, Any], timeout_s: float | None, call_id: str) -> dict[str, Any]:
        self._check_names(given)
        try:
            async with asyncio.timeout(timeout_s):
                async with self._room.held(await asyncio.to_thread(self._decoded_bytes, given)) as memory:
                    decoded = {name: await self._decode(name, given[name]) for name in self.chain.inputs}
                    steps = _Steps(
                        self._repository, self._pool, self._models, _Memory(memory, self.chain.most_bytes), call_id
                    )
                    return await run_chain(self.chain, steps, decoded)
        except TimeoutError:
            raise DeadlineExceeded(f"the chain was not finished within {timeout_s:g} s") from None

    def _check_names(self, given: Mapping[str, Any]) -> None:
        inputs = self.chain.inputs
        if unknown := [name for name in given if name not in inputs]:
            known = ", ".join(map(repr, inputs))
            raise InvalidRequest(f"{self.chain.name!r} has no input {unknown[0]!r}: it has {known}", unknown[0])
        if missing := [name for name in inputs if name not in given]:
            raise InvalidRequest(f"input {missing[0]!r} of {self.chain.name!r} is missing", missing[0])

    def _decoded_bytes(self, given: Mapping[str, Any]) -> int:
        """What the files among the inputs take at most once they are decoded."""
        files = [(kind, given[name]) for name, kind in self.chain.inputs.items() if isinstance(given[name], bytes)]
        pixels = sum(pixel_bytes(value) for kind, value in files if kind is InputKind.IMAGE)
        sounds = (len(value) for kind, value in files if kind is InputKind.AUDIO)
        return pixels + sum(min(_MOST_SOUND_BYTES, _SOUND_RATIO * length) for length in sounds)

    async def _decode(self, name: str, value: Any) -> Any:
        kind = self.chain.inputs[name]
        if kind is InputKind.IMAGE:
            return await asyncio.to_thread(decode_picture, value, name)  # Pillow releases Python's lock
        if kind is InputKind.AUDIO:
            return await asyncio.to_thread(decode_audio, value, max_s=MAX_SOUND_S, param=name)  # so does PyAV
        return value


def chain_index(chains: Sequence[ServedChain], only_ready: bool) -> list[dict[str, str]]:
    """One object for each chain, in the form of the repository's index."""
    entries: list[dict[str, str]] = []
    for chain in chains:
        reason = chain.failure
        if reason is None or not only_ready:
            state = "READY" if reason is None else "UNAVAILABLE"
            entries.append({"name": chain.chain.name, "version": CHAIN_VERSION, "state": state, "reason": reason or ""})
    return entries


def _function_pool(chain: Chain) -> FunctionPool | None:
    """Processes for the functions of a chain, after a check; None: it has no functions. Raises: as `ServedChain`."""
    functions = [step for step in chain.steps if isinstance(step, FunctionStep)]
    if not functions:
        return None
    pool = FunctionPool(chain.num_workers, chain.timeout_s, most_bytes=chain.most_bytes)
    try:
        pool.check(functions)
    except BaseException:
        pool.close()
        raise
    return pool


class _StepModels:
    """The models of steps other than graphs: text encoders, made when first needed, language and speech models."""

    def __init__(
        self,
        repository: ModelRepository,
        answerers: Mapping[str, TextAnswerer],
        transcribers: Mapping[str, SoundTranscriber],
    ) -> None:
        self.answerers, self.transcribers = answerers, transcribers
        self._repository = repository
        self._encoders: dict[str, GraphEncoder] = {}

    @property
    def failure(self) -> str | None:
        """Why a model cannot answer any more; None while all can."""
        loaded = (*self.answerers.values(), *self.transcribers.values())
        return next((one.failure for one in loaded if one.failure is not None), None)

    def encoder(self, step: EncoderStep) -> GraphEncoder:
        """The encoder of a step. Raises ModelLoadError if the graph is no encoder; UnknownModel, ModelNotReady."""
        name = step.model_name
        if name not in self._encoders:
            plan = self._repository.get(name).plan
            self._encoders[name] = GraphEncoder(
                step.encoder, lambda: self._repository.get(name), plan.inputs, plan.outputs
            )
        return self._encoders[name]

    def close(self) -> None:
        """Start no further work. Idempotent."""
        for encoder in self._encoders.values():
            encoder.close()


class _Memory:
    """What the steps of one request have made."""

    def __init__(self, holding: Holding, most_bytes: int) -> None:
        self._holding = holding
        self._most_bytes = self._left_bytes = most_bytes

    async def take(self, step: str, num_bytes: int) -> None:
        """Count a step's values. Raises RequestError if they are too many; QueueFull."""
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            raise RequestError(
                f"step {step!r}: the values of this request take more than {self._most_bytes >> 20} MiB: see "
                "`value_mib` in docs/chains.md"
            )
        await self._holding.grow(num_bytes)


class _Steps:
    """Runs the steps of one request. Implements `chains.run.StepRunner`."""

    def __init__(
        self, repository: ModelRepository, pool: FunctionPool | None, models: _StepModels, memory: _Memory, call_id: str
    ) -> None:
        self._repository = repository
        self._pool = pool
        self._models = models
        self._memory = memory
        self._call_id = call_id

    async def run_graph(self, model: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the served model of this name."""
        outputs = await self._repository.get(model).infer(inputs, None, self._call_id)
        await self._memory.take(model, sum(array.nbytes for array in outputs.values()))
        return outputs

    async def call_function(self, step: FunctionStep, values: Mapping[str, Any]) -> Sequence[Any]:
        """Call a function in one of the chain's processes."""
        assert self._pool is not None
        result, num_bytes = await self._pool.call(step, values)
        await self._memory.take(step.name, num_bytes)
        return result

    async def encode(self, step: EncoderStep, texts: Sequence[str], query: str | None) -> F32:
        """Encode texts by the encoder whose graph is served under the step's name."""
        encoder = self._models.encoder(step)
        if query is not None:
            return (await scores_of(encoder, [(query, text) for text in texts])).values
        vectors_NH = (await encoder.embed(texts, kind=step.kind, cuts=True)).values
        await self._memory.take(step.name, vectors_NH.nbytes)
        return vectors_NH

    async def transcribe(self, step: SpeechStep, samples_S: F32) -> tuple[str, list[dict[str, Any]]]:
        """Transcribe a sound with the step's speech model."""
        transcript = await self._models.transcribers[step.name].transcribe(step, samples_S)
        return transcript.text, [segment.as_dict(number) for number, segment in enumerate(transcript.segments)]

    async def answer(self, step: LanguageStep, prompt: str, system: str) -> str:
        """Answer a prompt with the step's language model."""
        return await self._models.answerers[step.name].answer(step, prompt, system)

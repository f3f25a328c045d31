"""The Python interface to language models: continuing prompts and answering conversations."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, cast, overload

from typing_extensions import Unpack

from shoal.api.call import Call, Message, Prompt, is_conversation
from shoal.api.options import LaunchOptions, LLMOptions, PictureOptions, launch_config
from shoal.api.outputs import CompletionOutput, RequestOutput
from shoal.api.sampling import SamplingOptions, check_sampling
from shoal.api.text_deltas import AsyncTextDeltas, TextDeltas
from shoal.api.work.loop_thread import LoopThread
from shoal.api.work.model_at_work import at_work, recovery_of, unmetered_plane
from shoal.api.work.vision_tower import VisionOptions, attach_vision, vision_options
from shoal.core.plan.language import Plan
from shoal.errors import ConfigError, InvalidRequest
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.launch.loaded_model import LoadedModel
from shoal.machines.machines import Machines

__all__ = ["LLM", "CompletionOutput", "RequestOutput"]

_AHEAD = 2
"""A call with many prompts keeps this many times as many in progress as can run at once, so that replicas never
idle."""


class LLM:
    """A loaded language model. Close it, or use it in a `with` block. Thread-safe.

    A worker that dies is started again, and its requests continue with the same tokens; callers only see a pause.

    Every method has an asyncio form: `agenerate`, `achat`, `astream`, `aclose` and `async with`. vLLM has a second
    class for that; here one class is enough, because a loaded model can be awaited by a web handler while a script in a
    thread calls it. The work runs in threads of its own, so it may be awaited in any event loop.

    Examples:
        >>> with shoal.LLM("model.gguf", split="pp=2") as llm:  # doctest: +SKIP
        ...     print(llm.generate("The tide", max_tokens=20).text)
        ...     for text in llm.stream([{"role": "user", "content": "Hello!"}]):
        ...         print(text, end="")
    """

    def __init__(self, model: str | Path, **options: Unpack[LLMOptions]) -> None:
        """Plan, start the workers and load the weights.

        Args:
            model: a .gguf file, a Hugging Face directory, an ONNX graph with past keys and values, `hf:org/name`, or
                `pkg:NAME` (a model inside an installed package).
            options: see `LLMOptions`.

        Raises:
            ConfigError: an option is unknown or makes no sense for this model.
            ModelLoadError: the model is missing, broken or of an unknown kind.
            CapacityError: it does not fit into memory.
            WorkerLost: workers died while they were loading, again and again.
        """
        self._load(model, {**options}, None)

    @classmethod
    def on(cls, machines: Machines | None, model: str | Path, **options: Unpack[LLMOptions]) -> LLM:
        """The same on machines that are open already, which it leaves when it is closed; None: as the options say."""
        llm = cls.__new__(cls)
        llm._load(model, {**options}, machines)
        return llm

    def _load(self, model: str | Path, given: dict[str, Any], machines: Machines | None) -> None:
        pictures = {name: given.pop(name) for name in PictureOptions.__annotations__ if name in given}
        vision = vision_options(given | pictures)
        launching = cast(LaunchOptions, given)
        planned = plan_model(launch_config(model, launching), machines=machines)
        if planned.model.config.encoder is not None:
            planned.close()
            raise ConfigError(f"{model} is a model of speech: use shoal.Transcriber")
        self._own(launch(planned, recovery=recovery_of(launching)), vision)

    @classmethod
    def over(cls, loaded: LoadedModel, vision: VisionOptions | None = None) -> LLM:
        """Wrap a model that was loaded by other means and own it from now on. Without `vision` it takes only texts."""
        llm = cls.__new__(cls)
        llm._own(loaded, vision)
        return llm

    def _own(self, loaded: LoadedModel, vision: VisionOptions | None) -> None:
        self._loaded = loaded
        self._data_plane = unmetered_plane(loaded)
        if vision is not None:
            try:
                attach_vision(self._data_plane, loaded, vision)
            except BaseException:
                loaded.close()
                raise
        self._max_under_way = _AHEAD * loaded.engine.stats().max_running
        self._thread = LoopThread(partial(at_work, loaded, self._data_plane), "LLM")
        self._finalizer = weakref.finalize(self, self._thread.close)

    @property
    def plan(self) -> Plan:
        """The current plan: which worker runs what."""
        return self._loaded.running_plan

    @property
    def max_context(self) -> int:
        """The longest sequence in tokens, prompt and output together."""
        return self._data_plane.max_context

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the loaded adapters, for `adapter=`."""
        return self._data_plane.adapters

    @property
    def failure(self) -> str | None:
        """The reason why the model can no longer answer; None while it can."""
        return self._data_plane.failure

    @property
    def takes_pictures(self) -> bool:
        """Whether messages may contain pictures."""
        return self._data_plane.pictures is not None

    @property
    def has_chat_template(self) -> bool:
        """Whether the model has a chat template, which `chat` needs."""
        return self._loaded.tokenizer.has_chat_template

    @overload
    def generate(self, prompts: str | list[int], **options: Unpack[SamplingOptions]) -> RequestOutput: ...
    @overload
    def generate(
        self, prompts: list[str] | list[list[int]] | tuple[str, ...], **options: Unpack[SamplingOptions]
    ) -> list[RequestOutput]: ...
    def generate(self, prompts: Any, **options: Unpack[SamplingOptions]) -> RequestOutput | list[RequestOutput]:
        """Continue plain text.

        Args:
            prompts: a text, or the token ids of one; or a list of those, which are computed together.
            options: see `SamplingOptions`.

        Returns:
            One answer for one prompt; for a list, a list in its order.

        Raises:
            InvalidRequest: a prompt or an option is wrong; a note says which prompt.
            CapacityError: a prompt can never fit into the KV memory.
            DeadlineExceeded: an answer was not finished within `timeout`.
            RequestError: three replicas in a row were lost to this prompt.
            WorkerLost: no worker is left to compute on, and none could be started again.
            ModelClosed: the model was closed before or during the call.
        """
        return self._thread.run(self._answer(prompts, check_sampling(options), is_chat=False))

    @overload
    def chat(
        self, messages: list[Message] | list[dict[str, Any]], **options: Unpack[SamplingOptions]
    ) -> RequestOutput: ...  # fmt: skip
    @overload
    def chat(
        self, messages: list[list[Message]] | list[list[dict[str, Any]]], **options: Unpack[SamplingOptions]
    ) -> list[RequestOutput]: ...
    def chat(self, messages: Any, **options: Unpack[SamplingOptions]) -> RequestOutput | list[RequestOutput]:
        """Answer a conversation through the model's chat template.

        Args:
            messages: mappings with `role` and `content`; or a list of such conversations, computed together. A content
                is a text or, if the model accepts pictures, a list of parts: `{"type": "text", "text": "..."}` and
                `{"type": "image", "image": PICTURE}`, where PICTURE is a path, the bytes of a file, a PIL image, or a
                URL (`data:`; http(s) with `allow_remote_media`). OpenAI's `image_url` parts work, too.
            options: see `SamplingOptions`.

        Returns:
            One answer for one conversation; for a list, a list in its order.

        Raises:
            InvalidRequest: there is no chat template, or it refuses these messages.
            ShoalError: for the same reasons as in `generate`.
        """
        return self._thread.run(self._answer(messages, check_sampling(options), is_chat=True))

    def stream(self, prompt: Prompt, **options: Unpack[SamplingOptions]) -> TextDeltas:
        """Continue one text, or answer one conversation, and yield the text as it comes.

        Args:
            prompt: a text or token ids, as `generate`; or messages, as `chat`.
            options: see `SamplingOptions`; `n` must be 1.

        Returns:
            An iterator of texts, none of them empty. Its `output` has the rest: tokens, log-probabilities, the reason
            for the end.

        Raises:
            ShoalError: for the same reasons as in `generate` and `chat`; errors of the call itself at once, the others
                while the text is read.
        """
        return TextDeltas(self._thread, self._streamed(prompt, options), owner=self)

    @overload
    async def agenerate(self, prompts: str | list[int], **options: Unpack[SamplingOptions]) -> RequestOutput: ...
    @overload
    async def agenerate(
        self, prompts: list[str] | list[list[int]] | tuple[str, ...], **options: Unpack[SamplingOptions]
    ) -> list[RequestOutput]: ...
    async def agenerate(self, prompts: Any, **options: Unpack[SamplingOptions]) -> RequestOutput | list[RequestOutput]:
        """The asyncio form of `generate`. Cancelling the wait cancels the answer."""
        return await self._thread.arun(self._answer(prompts, check_sampling(options), is_chat=False))

    @overload
    async def achat(
        self, messages: list[Message] | list[dict[str, Any]], **options: Unpack[SamplingOptions]
    ) -> RequestOutput: ...
    @overload
    async def achat(
        self, messages: list[list[Message]] | list[list[dict[str, Any]]], **options: Unpack[SamplingOptions]
    ) -> list[RequestOutput]: ...
    async def achat(self, messages: Any, **options: Unpack[SamplingOptions]) -> RequestOutput | list[RequestOutput]:
        """The asyncio form of `chat`. Cancelling the wait cancels the answer."""
        return await self._thread.arun(self._answer(messages, check_sampling(options), is_chat=True))

    def astream(self, prompt: Prompt, **options: Unpack[SamplingOptions]) -> AsyncTextDeltas:
        """The asyncio form of `stream`, for `async for`."""
        return AsyncTextDeltas(self._thread, self._streamed(prompt, options), owner=self)

    def close(self) -> None:
        """End every call, stop all workers and free their memory. Idempotent; running calls raise ModelClosed."""
        self._thread.close()
        self._finalizer.detach()

    async def aclose(self) -> None:
        """Close the model without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> LLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _streamed(self, prompt: Prompt, options: SamplingOptions) -> Call:
        if check_sampling(options).get("n", 1) != 1:
            raise InvalidRequest("a stream is one text: leave n out, or use generate", param="n")
        return Call(self._data_plane, prompt, options)

    def _answer(
        self, given: Any, options: SamplingOptions, *, is_chat: bool
    ) -> Coroutine[Any, Any, RequestOutput | list[RequestOutput]]:
        """Answer one prompt or a list of prompts. Raises InvalidRequest if it is neither."""
        if is_chat and not (is_conversation(given) or _is_list_of(given, is_conversation)):
            raise InvalidRequest(
                "chat takes a list of messages, each with a role and a content, or a list of such lists",
                param="messages",
            )
        if not is_chat and (is_conversation(given) or (given and _is_list_of(given, is_conversation))):
            raise InvalidRequest("generate continues plain text; use chat for messages", param="prompt")
        is_tokens = bool(given) and _is_list_of(given, _is_int)
        if isinstance(given, str) or is_tokens or (is_chat and is_conversation(given)):
            return Call(self._data_plane, given, options).finish()
        if not isinstance(given, Sequence):
            raise InvalidRequest("prompts must be a text, a list of token ids, or a list of those", param="prompt")
        return self._answer_all(given, options)

    async def _answer_all(self, prompts: Sequence[Any], options: SamplingOptions) -> list[RequestOutput]:
        """Answer prompts in order, as many at once as keep all replicas busy. The first one that fails ends the
        others."""
        numbers = itertools.count()
        answers: dict[int, RequestOutput] = {}

        async def work() -> None:
            while (number := next(numbers)) < len(prompts):
                try:
                    answers[number] = await Call(self._data_plane, prompts[number], options).finish()
                except Exception as error:
                    error.add_note(f"This was prompt {number} of {len(prompts)}.")
                    raise

        workers = [asyncio.create_task(work()) for _ in range(min(len(prompts), self._max_under_way))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [answers[number] for number in range(len(prompts))]


def _is_int(value: object) -> bool:
    return isinstance(value, int)


def _is_list_of(value: object, is_one: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(is_one, value))

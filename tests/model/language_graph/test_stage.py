"""A graph's stage: steps become runs, runs go on from what the latest left, and broken steps are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from shoal.errors import ConfigError, ModelLoadError, RemoteProtocolError
from shoal.model.formats.model_file import GENAI_FILE
from shoal.model.language_graph.stage import GraphDecoder
from shoal.protocol.language_messages import SampledToken, SampleRow, Sampling, Step, StepId
from shoal.protocol.stage_config import ShardPart, StageConfig
from shoal.protocol.worker_messages import Generation
from tests.model.language_graph.graph_files import GENAI, MERGED_FILE, plain_logits

BLOCK = 4
TEXTS = ([5, 20, 33, 100, 200, 7], [9, 8, 7], [60, 61, 62, 63, 64, 65, 66, 67, 68])


def open_stage(path: Path, *, num_blocks: int = 32, part: ShardPart | None = None) -> GraphDecoder:
    config = StageConfig(
        first_layer=0,
        last_layer=2,
        precision="auto",
        threads=1,
        num_blocks=num_blocks,
        block_size=BLOCK,
        max_step_tokens=64,
        max_context=128,
        part=part,
    )
    return GraphDecoder(path, config)


def i32(values: Sequence[int]) -> bytes:
    return np.array(values, "<i4").tobytes()


def make_step(texts: Sequence[Sequence[int]], pasts: Sequence[int], *, wanted: Sequence[int], **given: bytes) -> Step:
    """The tokens of each text after its past; text n lies in blocks 8 n and following. `wanted`: rows of the batch."""
    counts = [len(text) - past for text, past in zip(texts, pasts, strict=True)]
    fields = {
        "token_ids": i32([token for text, past in zip(texts, pasts, strict=True) for token in text[past:]]),
        "positions": i32([at for text, past in zip(texts, pasts, strict=True) for at in range(past, len(text))]),
        "query_starts": i32([0, *np.cumsum(counts)]),
        "context_lens": i32([len(text) for text in texts]),
        "block_tables": np.add.outer(8 * np.arange(len(texts)), np.arange(8)).astype("<i4").tobytes(),
    }
    samples = tuple(
        SampleRow(row=row, token_index=0, sampling=Sampling(temperature=0.0), want_logits=True) for row in wanted
    )
    return Step(step_id=StepId(1), generation=Generation(0), samples=samples, **(fields | given))


def logits(result: object) -> list[np.ndarray]:
    assert isinstance(result, tuple)
    assert all(isinstance(one, SampledToken) for one in result)
    return [np.frombuffer(one.logits, "<f4") for one in result]


def test_any_rows_of_a_prompt_have_logits_where_the_graph_computes_those_of_last_tokens_only() -> None:
    text = TEXTS[0]
    found = logits(open_stage(GENAI / "model.onnx").process(make_step([text], [0], wanted=[1, 3, 5])))
    for length, logits_V in zip((2, 4, 6), found, strict=True):
        np.testing.assert_allclose(logits_V, plain_logits(GENAI / "model.onnx", text[:length]), atol=1e-4)


def test_caches_that_keep_only_the_latest_tokens_are_refused(tmp_path: Path) -> None:
    """As an export with a sliding window returns them. Within the window all is well."""
    model = onnx.load(GENAI / "model.onnx")
    graph, cut = model.graph, ["present.0.key", "present.0.value"]
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name in cut:
                node.output[place] = f"whole.{name}"
    graph.initializer.extend(
        from_array(np.array([number]), name) for name, number in (("from", -16), ("to", 1 << 30), ("axis", 2))
    )
    graph.node.extend(make_node("Slice", [f"whole.{name}", "from", "to", "axis"], [name]) for name in cut)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / GENAI_FILE).write_bytes((GENAI / GENAI_FILE).read_bytes())
    open_stage(tmp_path / "model.onnx", num_blocks=4)
    with pytest.raises(ModelLoadError, match="key has 16 tokens after a text of 20; caches that keep only the latest"):
        open_stage(tmp_path / "model.onnx", num_blocks=5)


def test_a_mixed_step_computes_each_sequence_as_if_it_were_alone() -> None:
    """One text goes on by a token, one by a piece of its prompt, one begins."""
    stage = open_stage(GENAI / "model.onnx")
    stage.process(make_step(TEXTS, [0, 0, 0], wanted=[]))
    longer = [[*TEXTS[0], 11], [*TEXTS[1], 12, 13, 14], [21, 22]]
    found = logits(stage.process(make_step(longer, [6, 3, 0], wanted=[5, 0, 3])))
    for text, logits_V in zip((longer[2], longer[0], longer[1]), found, strict=True):
        np.testing.assert_allclose(logits_V, plain_logits(GENAI / "model.onnx", text), atol=1e-4)


@pytest.mark.parametrize("path", [GENAI / "model.onnx", MERGED_FILE])
def test_pasts_are_gathered_again_only_where_other_sequences_share_a_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = open_stage(path)
    gathered: list[int] = []
    gather = stage._pool.gather

    def count(*arguments: object) -> object:
        gathered.append(1)
        return gather(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stage._pool, "gather", count)
    texts = [list(text) for text in TEXTS]
    stage.process(make_step(texts, [0, 0, 0], wanted=[]))
    for turn in range(4):
        texts = [[*text, 30 + turn] for text in texts]
        stage.process(make_step(texts, [len(text) - 1 for text in texts], wanted=[0]))
    assert len(gathered) == 1
    stage.process(make_step([[*text, 40] for text in texts[:2]], [len(text) for text in texts[:2]], wanted=[0]))
    assert len(gathered) == 2


def test_more_copies_than_there_is_room_for_are_not_kept() -> None:
    small, large = open_stage(GENAI / "model.onnx"), open_stage(GENAI / "model.onnx")
    small._limits = replace(small._limits, max_cells=12)
    found = []
    for stage in (small, large):
        stage.process(make_step(TEXTS, [0, 0, 0], wanted=[]))
        longer = [[*text, 11] for text in TEXTS]
        found.append(logits(stage.process(make_step(longer, [6, 3, 9], wanted=[0, 1, 2]))))
        assert sum(past.total_cells for past in stage._pasts) <= stage._limits.max_cells
    for few, many in zip(*found, strict=True):
        np.testing.assert_allclose(few, many, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"positions": i32([0, 2, 1])}, "no neighboring tokens"),
        ({"context_lens": i32([2])}, "no neighboring tokens"),
        ({"block_tables": i32([40, 1, 2, 3, 4, 5, 6, 7])}, "lies in blocks"),
        ({"block_tables": i32([-1] * 8)}, "lies in blocks"),
        ({"query_starts": i32([0, 0])}, "no neighboring tokens"),
        ({"query_starts": i32([0, 2]), "context_lens": i32([2])}, "are divided at"),
    ],
)
def test_a_step_that_does_not_fit_the_cache_is_refused(given: dict[str, bytes], reason: str) -> None:
    stage = open_stage(MERGED_FILE)
    with pytest.raises(ValueError, match=reason):
        stage.process(make_step([[1, 2, 3]], [0], wanted=[2], **given))


def test_what_a_graph_cannot_give_is_refused() -> None:
    hidden = SampleRow(row=0, token_index=0, sampling=Sampling(), want_hidden=True)
    step = make_step([[1]], [0], wanted=[])
    stage = open_stage(MERGED_FILE)
    with pytest.raises(RemoteProtocolError, match="no hidden states"):
        stage.process(Step(**{**{name: getattr(step, name) for name in step.__struct_fields__}, "samples": (hidden,)}))
    with pytest.raises(ConfigError, match="computed whole"):
        open_stage(MERGED_FILE, part=ShardPart(kv_heads=(0, 1), columns=(0, 1), vocabulary=(0, 100)))

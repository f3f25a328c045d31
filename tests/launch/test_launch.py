"""From what the user asked for to a plan, and a plan of one worker in this process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan, ShardPlan
from shoal.core.sequences.request import Request, RequestId
from shoal.errors import CapacityError, ConfigError, ModelLoadError
from shoal.executor.launcher import Place
from shoal.executor.load_message import load_message
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.traffic import StepTraffic
from shoal.launch.in_process import InProcessStepExecutor
from shoal.launch.language.planning import compute_exactly, plan_model
from shoal.launch.launch import launch
from shoal.model.attention.paged_attention import native_available
from shoal.protocol.language_messages import Sampling
from shoal.protocol.worker_messages import Generation
from tests.model.tiny_models import make_tiny_gguf, tiny_llama_tensors, write_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="Q4_1")


def config(path: Path, **changes: Any) -> LaunchConfig:
    return LaunchConfig(**({"model": str(path), "threads": 1, "kv_memory_bytes": 1 << 20} | changes))


def test_a_plan_says_what_was_asked_for(model: Path) -> None:
    plan = plan_model(config(model, split="dp=2,pp=2", precision="int8", max_seqs=3, max_context=100)).plan
    assert (plan.split, plan.precision) == ("dp=2,pp=2:2", "int8")
    assert (plan.max_seqs, plan.max_context, plan.num_workers) == (3, 100, 4)
    assert all(shard.threads == 1 for replica in plan.replicas for shard in replica.shards)


def test_an_unknown_vocabulary_is_told_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"tokenizer.ggml.model": "abacus"}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(), metadata=metadata)
    monkeypatch.setattr("shoal.launch.in_process.open_stage", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ModelLoadError, match=r"m\.gguf.*'abacus'"):
        launch(plan_model(config(path)))


def test_shards_divide_what_one_worker_would_hold(model: Path) -> None:
    whole = plan_model(config(model, precision="int8")).plan.replicas[0].shards[0]
    plan = plan_model(config(model, split="tp=3:1", precision="int8")).plan
    shards = plan.replicas[0].shards
    assert (plan.split, [shard.part.columns for shard in shards]) == ("tp=3:1", [(0, 96), (96, 128)])
    assert [shard.part.vocabulary for shard in shards] == [(0, 256), (256, 320)]
    assert sum(shard.weight_bytes for shard in shards) == whole.weight_bytes
    assert sum(shard.kv_bytes for shard in shards) == whole.kv_bytes


def shards_of(plan: Plan) -> list[ShardPlan]:
    return [shard for replica in plan.replicas for stage in replica.stages for shard in stage.shards]


@pytest.mark.parametrize("split", ["1", "pp=2", "tp=2"])
def test_exact_activations_are_a_plans_own(model: Path, split: str) -> None:
    planned = plan_model(config(model, split=split))
    exact = plan_model(config(model, split=split, exact_activations=True)).plan
    later = compute_exactly(planned).plan
    assert exact.exact_activations
    assert later.exact_activations
    assert not planned.plan.exact_activations
    assert [one.weight_bytes for one in shards_of(exact)] == [one.weight_bytes for one in shards_of(later)]
    ((blocks,), (exact_blocks,), (later_blocks,)) = (
        [replica.num_blocks for replica in plan.replicas] for plan in (planned.plan, exact, later)
    )
    assert (exact_blocks, later_blocks) == (blocks // 2, blocks), "keys and values take twice as much"
    kv_bytes = [one.kv_bytes for one in shards_of(planned.plan)]
    assert [one.kv_bytes for one in shards_of(exact)] == kv_bytes
    assert [one.kv_bytes for one in shards_of(later)] == [2 * num_bytes for num_bytes in kv_bytes]
    assert compute_exactly(replace(planned, plan=exact)).plan == exact


def test_a_shard_without_attention_is_mentioned(model: Path) -> None:
    plan = plan_model(config(model, split="tp=3")).plan
    assert [shard.kv_bytes > 0 for shard in plan.replicas[0].shards] == [True, True, False]
    assert len(plan.notes) == 1
    assert "shard 2 of 3: no attention" in plan.notes[0]


def test_the_context_is_at_most_the_models(model: Path) -> None:
    assert plan_model(config(model, max_context=100_000)).plan.max_context == 512
    assert plan_model(config(model)).plan.max_context == 512


def test_kv_memory_is_divided_over_the_replicas(model: Path) -> None:
    one = plan_model(config(model, max_seqs=64)).plan
    two = plan_model(config(model, max_seqs=64, split="dp=2")).plan
    assert one.replicas[0].num_blocks == 2 * two.replicas[0].num_blocks


def test_narrower_weights_are_planned_smaller(model: Path) -> None:
    sizes = {
        precision: plan_model(config(model, precision=precision)).plan.replicas[0].shards[0].weight_bytes
        for precision in ("fp32", "int8", "auto")
    }
    assert sizes["auto"] < sizes["fp32"]
    assert sizes["int8"] < sizes["fp32"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"split": "pp=5"}, ConfigError),
        ({"split": "tp=5"}, ConfigError),
        ({"precision": "fp64"}, ConfigError),
        ({"threads": 0}, ConfigError),
        ({"kv_memory_bytes": 100}, CapacityError),
        ({"kv_memory_bytes": 1 << 50, "max_seqs": 1 << 30}, CapacityError),
        ({"model": "nowhere.gguf"}, ModelLoadError),
    ],
    ids=repr,
)
def test_what_cannot_be_planned(model: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        plan_model(config(model, **changes))


def test_one_worker_runs_in_this_process(model: Path) -> None:
    progress: list[tuple[int, int]] = []
    with launch(plan_model(config(model)), lambda done, total: progress.append((done, total))) as loaded:
        assert isinstance(loaded.engine.executors[0], InProcessStepExecutor)
        request = Request(
            request_id=RequestId("a"), prompt_ids=(5, 6, 7), max_tokens=4, sampling=Sampling(temperature=0.0)
        )
        outputs = list(loaded.engine.run([request]))
    assert len(outputs) == 5
    assert len(progress) >= 4
    assert progress == [(done, len(progress)) for done in range(1, len(progress) + 1)]


@pytest.mark.skipif(not native_available(), reason="the native extension is not built")
def test_a_model_in_this_process_keeps_its_packed_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = Request(request_id=RequestId("a"), prompt_ids=(5, 6), max_tokens=4, sampling=Sampling(temperature=0.0))

    def answer() -> tuple[object, dict[Path, int]]:
        with launch(plan_model(config(model))) as loaded:
            tokens = [getattr(output, "token", output) for output in loaded.engine.run([request])]
        return tokens, {path: path.stat().st_ino for path in tmp_path.rglob("*.packed")}

    first, again = answer(), answer()
    assert first == again
    assert len(first[1]) == 5


def test_a_shard_that_cannot_load_says_why_itself(model: Path) -> None:
    """Its peer, which comes first, only knows that it lost it."""
    planned = plan_model(config(model, split="tp=2"))
    plan, layers = planned.plan, planned.model.config.num_layers
    loads = [load_message(planned.model.path, plan, plan.replicas[0], 0, rank, num_layers=layers) for rank in range(2)]
    loads[1] = structs.replace(loads[1], model_path="nowhere.gguf")
    places = [Place(label=f"shard {rank}", load=load, machine=None) for rank, load in enumerate(loads)]
    launcher = LocalLauncher(step_rows=plan.max_step_tokens, hidden_size=64)
    executor = PipelineExecutor([places], launcher, StepTraffic(), Generation(0))
    try:
        with pytest.raises(ModelLoadError, match=r"shard 1: .*nowhere\.gguf"):
            executor.wait_until_loaded(60.0)
    finally:
        executor.close()

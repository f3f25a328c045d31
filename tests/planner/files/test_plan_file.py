from dataclasses import replace

import pytest

from shoal.core.plan.graph import BatchAxes, GraphPlan, GraphReplicaPlan, GraphShardPlan, GraphStagePlan
from shoal.core.plan.language import Plan, PredictedSpeed, ReplicaPlan, ShardPlan, StagePlan
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.errors import ConfigError
from shoal.planner.files.plan_check import check_plan
from shoal.planner.files.plan_file import check_shape, read_plan, write_plan
from shoal.protocol.stage_config import ExpertSpan, ShardPart
from shoal.protocol.stage_interface import HEAD, StageInput, StageOutput, TensorSpec

ATOMS = ShardAtoms(
    num_kv_heads=3,
    kv_heads_per_atom=1,
    intermediate_size=96,
    column_atom=32,
    vocab_size=100,
    vocab_atom=50,
)


def shard(heads: tuple[int, int], columns: tuple[int, int], vocabulary: tuple[int, int]) -> ShardPlan:
    part = ShardPart(kv_heads=heads, columns=columns, vocabulary=vocabulary)
    return ShardPlan(part=part, threads=1, cores=(0,), weight_bytes=10, kv_bytes=5, cpu_quota=0.5)


def make_plan() -> Plan:
    shards = (shard((0, 2), (0, 64), (0, 50)), shard((2, 3), (64, 96), (50, 100)))
    stages = (
        StagePlan(first_layer=0, last_layer=4, precision="int8", shards=shards),
        StagePlan(first_layer=4, last_layer=6, precision="int4", shards=(shard((0, 3), (0, 96), (0, 100)),)),
    )
    return Plan(
        model="tiny.gguf",
        split="pp=4:2",
        precision="int8",
        block_size=16,
        max_context=128,
        max_step_tokens=64,
        max_seqs=4,
        replicas=(ReplicaPlan(stages=stages, num_blocks=7),),
        notes=("a note: with a colon",),
        shape="llama, 6 layers",
        predicted=PredictedSpeed(
            streams=4, prompt_tokens=128, output_tokens=64, output_tokens_per_s=80.5, ttft_s=0.25, tpot_s=0.01
        ),
    )


def make_graph_plan() -> GraphPlan:
    x = TensorSpec(name="x", dtype="float32", shape=("n", 3, None))
    y = TensorSpec(name="y", dtype="float32", shape=None)
    stage = GraphStagePlan(
        first_node=0,
        last_node=5,
        inputs=(StageInput(spec=x, source=HEAD),),
        outputs=(StageOutput(spec=y, consumers=(HEAD,)),),
        shards=(GraphShardPlan(threads=2, cores=(), weight_bytes=3),),
        shares=(1,),
        split=None,
        compute_s=0.5,
    )
    return GraphPlan(
        model="model.onnx",
        split="1",
        inputs=(x,),
        outputs=(y,),
        batch=BatchAxes(inputs={"x": 0}, outputs={"y": None}, rows=None),
        replicas=(GraphReplicaPlan(stages=(stage,)),),
        shape="5 nodes",
    )


@pytest.mark.parametrize("plan", [make_plan(), make_graph_plan()], ids=["language model", "graph"])
def test_what_is_written_is_read(plan: Plan | GraphPlan):
    assert read_plan(write_plan(plan), "plan.yaml") == plan


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("threads: 1", "treads: 1", "plan.yaml: unknown key replicas.0.stages.0.shards.0.treads (did you mean threads"),
        ("block_size: 16", "block_size: many", "plan.yaml: Expected `int`, got `str` - at `$.block_size`"),
        ("shoal_plan: 2", "shoal_plan: 99", "plan.yaml was written by another version of Shoal"),
        ("kind: language model", "kind: poem", "plan.yaml: kind must be one of language model, graph"),
        ("model: tiny.gguf\n", "", "missing required"),
        ("shoal_plan: 2", "plan: 1", "plan.yaml is not a plan; make one with"),
        ("model: tiny.gguf", "model: [", "plan.yaml is not YAML"),
    ],
)
def test_what_no_plan_says_is_refused(old: str, new: str, says: str):
    with pytest.raises(ConfigError) as error:
        read_plan(write_plan(make_plan()).replace(old, new), "plan.yaml")
    assert says in str(error.value)


def test_a_plan_for_another_model_is_refused():
    check_shape(make_plan(), "llama, 6 layers", "tiny.gguf")
    with pytest.raises(ConfigError, match=r"the plan is for tiny.gguf \(llama, 6 layers\), but big.gguf is another"):
        check_shape(make_plan(), "llama, 80 layers", "big.gguf")


def test_a_whole_plan_passes_the_check():
    check_plan(make_plan(), num_layers=6, atoms=ATOMS)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("last_layer: 6", "last_layer: 5", "replica 0: layers end at 5, but the model has 6"),
        ("first_layer: 4", "first_layer: 3", "replica 0: layers 3 to 6 do not follow 4"),
        ("columns: [64, 96]", "columns: [65, 96]", "stage 0: MLP columns 65 to 96 do not follow 64"),
        ("vocabulary: [50, 100]", "vocabulary: [50, 90]", "vocabulary rows end at 90, but the model has 100"),
        ("kv_heads: [2, 3]", "kv_heads: [1, 3]", "stage 0: KV heads 1 to 3 do not follow 2"),
        ("threads: 1", "threads: 0", "stage 0 shard 0: a worker needs at least 1 thread"),
        ("num_blocks: 7", "num_blocks: 0", "replica 0: it needs at least one KV block"),
        ("cpu_quota: 0.5", "cpu_quota: 2.0", "cpu_quota is a share"),
    ],
)
def test_an_edited_plan_that_cannot_be_run_is_refused(old: str, new: str, says: str):
    edited = read_plan(write_plan(make_plan()).replace(old, new, 1), "plan.yaml")
    assert isinstance(edited, Plan)
    with pytest.raises(ConfigError) as error:
        check_plan(edited, num_layers=6, atoms=ATOMS)
    assert says in str(error.value)


def test_an_edited_plan_of_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"value 'int3' - at `\$\.replicas\[0\]\.stages\[1\]\.precision`"):
        read_plan(write_plan(make_plan()).replace("precision: int4", "precision: int3", 1), "plan.yaml")


def test_matrices_are_cut_between_blocks_only():
    text = write_plan(make_plan()).replace("[0, 64]", "[0, 60]").replace("[64, 96]", "[60, 96]")
    edited = read_plan(text, "plan.yaml")
    assert isinstance(edited, Plan)
    with pytest.raises(ConfigError, match="MLP columns can be cut at multiples of 32 only, not at 60"):
        check_plan(edited, num_layers=6, atoms=ATOMS)


def expert_plan(*held: tuple[ExpertSpan, ...]) -> Plan:
    """A plan whose first stage has whole experts on its shards."""
    plan = make_plan()
    first, last = plan.replicas[0].stages
    shards = [replace(one, part=replace(one.part, experts=(own,))) for one, own in zip(first.shards, held, strict=True)]
    stages = (replace(first, shards=tuple(shards)), last)
    return replace(plan, replicas=(replace(plan.replicas[0], stages=stages),))


COPIED = expert_plan((ExpertSpan(0, 6), ExpertSpan(6, 7, 3, 0b110)), (ExpertSpan(6, 7, 3, 0b001), ExpertSpan(7, 8)))


def test_whole_experts_are_written_and_checked():
    read = read_plan(write_plan(COPIED), "plan.yaml")
    assert read == COPIED
    assert isinstance(read, Plan)
    check_plan(read, num_layers=6, atoms=replace(ATOMS, num_experts=8))


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (
            expert_plan((ExpertSpan(0, 6),), (ExpertSpan(7, 8),)),
            "each row of expert 6 must be computed by exactly one shard",
        ),
        (
            expert_plan((ExpertSpan(0, 7),), (ExpertSpan(6, 8),)),
            "each row of expert 6 must be computed by exactly one shard",
        ),
        (expert_plan((ExpertSpan(0, 6),), (ExpertSpan(6, 9),)), "there are no experts [6, 9, 1, 1]; the model has 8"),
        (expert_plan((ExpertSpan(0, 8, 2, 1),), (ExpertSpan(0, 8, 3, 6),)), "each row of expert 0 must be"),
        (expert_plan((ExpertSpan(0, 8, 0, 1),), ()), "there are no experts"),
    ],
)
def test_experts_whose_rows_nobody_or_several_compute_are_refused(plan: Plan, says: str):
    with pytest.raises(ConfigError) as error:
        check_plan(plan, num_layers=6, atoms=replace(ATOMS, num_experts=8))
    assert says in str(error.value)


def test_the_shards_of_a_stage_agree_on_experts():
    first, last = COPIED.replicas[0].stages
    shards = (first.shards[0], replace(first.shards[1], part=replace(first.shards[1].part, experts=())))
    plan = replace(COPIED, replicas=(replace(COPIED.replicas[0], stages=(replace(first, shards=shards), last)),))
    with pytest.raises(ConfigError, match="either all shards list their experts"):
        check_plan(plan, num_layers=6, atoms=replace(ATOMS, num_experts=8))

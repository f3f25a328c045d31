from shoal.planner.choice.choose import choose
from shoal.planner.choice.extend import Extension, extend
from shoal.planner.choice.goal import Goal, Objective
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, WorkerClass
from tests.planner.choice.example_fleets import FAST_LINK, SLOW_LINK, make_class, make_fleet, make_model

INT8 = ("int8",)
WORKLOAD = Workload(streams=16, prompt_tokens=16, output_tokens=32)


def join(
    old: list[WorkerClass],
    new: list[WorkerClass],
    *,
    objective: Objective = "throughput",
    link=FAST_LINK,
    is_open: bool = True,
) -> tuple[Extension | None, Fleet]:
    model, goal = make_model(), Goal(objective=objective)
    present = choose([make_fleet(*old, link=link, sums=link)], model, WORKLOAD, goal, INT8).best.replicas
    fleet = make_fleet(*old, *new, link=link, sums=link)
    extension = extend(
        present,
        fleet,
        idle=range(len(old), len(fleet.classes)),
        open_replicas=range(len(present)) if is_open else (),
        model=model,
        workload=WORKLOAD,
        goal=Goal(objective=objective),
        precisions=INT8,
    )
    return extension, fleet


def machines_of(extension: Extension, replica: int) -> set[str]:
    classes = extension.candidate.fleet.classes
    return {classes[index].name for stage in extension.candidate.replicas[replica] for index in stage.group.members}


def test_a_machine_that_can_hold_the_model_makes_a_replica_of_its_own_where_links_are_slow():
    extension, _ = join([make_class("a")], [make_class("b")], link=SLOW_LINK)
    assert extension is not None
    assert (extension.replica, len(extension.candidate.replicas)) == (1, 2)
    assert machines_of(extension, 1) == {"b"}
    assert 0.5 < extension.gain < 1.1


def test_a_machine_too_small_for_the_model_takes_part_of_it():
    extension, _ = join([make_class("a", memory_mb=90)], [make_class("b", memory_mb=30)])
    assert extension is not None
    assert (extension.replica, len(extension.candidate.replicas)) == (0, 1)
    assert machines_of(extension, 0) == {"a", "b"}


def test_a_small_machine_is_no_use_where_nothing_may_be_cut_anew():
    assert join([make_class("a", memory_mb=90)], [make_class("b", memory_mb=30)], is_open=False)[0] is None


def test_two_small_machines_hold_the_model_together():
    new = [make_class("b", memory_mb=60), make_class("c", memory_mb=60)]
    extension, _ = join([make_class("a")], new, is_open=False)
    assert extension is not None
    assert machines_of(extension, 1) == {"b", "c"}


def test_a_machine_so_slow_that_it_adds_next_to_nothing_is_left_idle():
    assert join([make_class("a")], [make_class("b", slowness=50.0)])[0] is None


def test_the_others_stay_as_they_are():
    old = [make_class("a"), make_class("b")]
    fleet, goal = make_fleet(*old, link=SLOW_LINK, sums=SLOW_LINK), Goal(objective="throughput")
    present = choose([fleet], make_model(), WORKLOAD, goal, INT8)
    extension, _ = join(old, [make_class("c")], link=SLOW_LINK)
    assert extension is not None
    assert extension.candidate.replicas[:2] == present.best.replicas

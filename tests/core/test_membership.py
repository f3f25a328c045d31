"""Machines that join, leave and come back: who is told what, and which replicas are given back their workers."""

from __future__ import annotations

from shoal.core.membership import (
    LEAVE_AFTER_S,
    ChangeEnded,
    ClusterMembership,
    FindPlan,
    Leave,
    MachinesSeen,
    PlanEnded,
    ReplicaSeen,
    ReplicasSeen,
    ReportHead,
    ReportJoined,
    ReportMachine,
    ReportUnused,
    Restore,
)


def make(*, uses_new: bool = True) -> ClusterMembership:
    return ClusterMembership({}, uses_new=uses_new)


def seen(*machines: str, is_whole: bool = False, is_changing: bool = False) -> ReplicasSeen:
    replica = ReplicaSeen(machines=frozenset(machines), is_whole=is_whole, is_changing=is_changing)
    return ReplicasSeen(replicas=(replica,))


def test_new_machines_are_planned_for_one_change_after_the_other():
    membership = make()
    joined = MachinesSeen(joined=("b",), living={"a", "b"})
    assert membership.handle(joined, 0.0) == [ReportJoined(machines=("b",)), FindPlan()]
    assert membership.handle(PlanEnded(found=True), 1.0) == []
    assert membership.handle(MachinesSeen(joined=("c",), living={"a", "b", "c"}), 5.0) == [
        ReportJoined(machines=("c",))
    ], "the first is still being made"
    assert membership.handle(ChangeEnded(failure=None), 6.0) == []
    assert membership.handle(MachinesSeen(), 10.0) == [FindPlan()]
    assert membership.handle(PlanEnded(found=False), 11.0) == []
    assert membership.handle(MachinesSeen(), 15.0) == []


def test_a_change_that_fails_is_told_and_not_tried_again():
    membership = make()
    membership.handle(MachinesSeen(joined=("b",)), 0.0)
    membership.handle(PlanEnded(found=True), 1.0)
    assert membership.handle(ChangeEnded(failure="no memory"), 2.0) == [ReportUnused(reason="no memory")]
    assert membership.handle(MachinesSeen(), 5.0) == []


def test_where_new_machines_are_not_to_be_used_they_are_told_of():
    assert make(uses_new=False).handle(MachinesSeen(joined=("b",)), 0.0) == [ReportJoined(machines=("b",))]


def test_trouble_is_told_once_until_a_look_succeeds():
    membership, fails = make(), MachinesSeen(failure="no agent")
    assert membership.handle(fails, 0.0) == [ReportUnused(reason="no agent")]
    assert membership.handle(fails, 5.0) == []
    assert membership.handle(MachinesSeen(), 10.0) == []
    assert membership.handle(fails, 15.0) == [ReportUnused(reason="no agent")]


def test_what_is_wrong_with_a_machine_is_told_when_it_changes():
    membership = ClusterMembership({"z": "does not answer"}, uses_new=True)
    troubles = {"z": "does not answer", "a": "has left"}
    assert membership.handle(MachinesSeen(troubles=troubles), 0.0) == [ReportMachine(machine="a", what="has left")]
    assert membership.handle(MachinesSeen(troubles=troubles), 5.0) == []
    assert membership.handle(MachinesSeen(), 10.0) == []
    assert membership.handle(MachinesSeen(troubles={"a": "has left"}), 15.0) == [
        ReportMachine(machine="a", what="has left")
    ]


def test_without_its_head_it_leaves_once_while_there_is_time():
    membership, gone = make(), MachinesSeen(head_trouble="gone", failure="gone")
    assert membership.handle(gone, 0.0) == [ReportHead(trouble="gone")]
    assert membership.handle(MachinesSeen(), 5.0) == [ReportHead(trouble=None)]
    assert membership.handle(gone, 10.0) == [ReportHead(trouble="gone")]
    assert membership.handle(gone, 10.0 + LEAVE_AFTER_S - 0.1) == []
    assert membership.handle(gone, 10.0 + LEAVE_AFTER_S) == [Leave(reason="gone")]
    assert membership.handle(gone, 60.0) == []


def test_a_replica_is_restored_at_once_when_its_last_machine_is_back():
    membership = make(uses_new=False)
    membership.handle(MachinesSeen(living={"a"}), 0.0)
    assert membership.handle(seen("a", "b"), 0.0) == []
    membership.handle(MachinesSeen(joined=("b",), living={"a", "b"}), 5.0)
    assert membership.handle(seen("a", "b", is_changing=True), 5.0) == []
    assert membership.handle(seen("a", "b"), 6.0) == [Restore(replica=0)]
    assert membership.handle(seen("a", "b"), 7.0) == [], "not at once again"
    assert membership.handle(seen("a", "b", is_whole=True), 8.0) == []


def test_a_replica_whose_machines_never_left_is_tried_less_and_less_often():
    membership = make(uses_new=False)
    membership.handle(MachinesSeen(living={"a"}), 0.0)
    tried_at_s = [float(now_s) for now_s in range(0, 1000) if membership.handle(seen("a"), float(now_s))]
    assert tried_at_s == [10.0, 30.0, 70.0, 150.0, 310.0, 610.0, 910.0]


def test_a_machine_that_is_not_there_is_waited_for_however_long():
    membership = make(uses_new=False)
    membership.handle(MachinesSeen(living={"a"}), 0.0)
    assert not any(membership.handle(seen("a", "b"), float(now_s)) for now_s in range(1000))

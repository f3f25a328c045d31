"""Which models are there: loading, making room, going when nobody asks."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.core.residency import (
    PATIENCE_S,
    AdmitCall,
    CallEnded,
    CallId,
    LoadFailed,
    LoadModel,
    ModelLoaded,
    ModelPhase,
    ModelUnloaded,
    ModelWanted,
    RefuseCall,
    Residency,
    ResidencyEffect,
    ResidencyEvent,
    TimePassed,
    UnloadModel,
)


def wanted(call: int, name: str) -> ModelWanted:
    return ModelWanted(call=CallId(call), name=name)


def ended(call: int, name: str) -> CallEnded:
    return CallEnded(call=CallId(call), name=name)


def admitted(*calls: int) -> list[AdmitCall]:
    return [AdmitCall(call=CallId(call)) for call in calls]


def test_the_first_call_loads_and_all_that_wait_are_admitted() -> None:
    models = Residency(["a", "b"])
    assert models.handle(wanted(1, "a"), 0.0) == [LoadModel(name="a")]
    assert models.handle(wanted(2, "a"), 0.0) == []
    assert models.handle(ModelLoaded(name="a"), 1.0) == admitted(1, 2)
    assert models.handle(wanted(3, "a"), 1.0) == admitted(3)
    assert models.num_open("a") == 3
    assert models.phase("b") is ModelPhase.ABSENT


def test_the_model_that_was_used_longest_ago_makes_room() -> None:
    models = Residency(["a", "b", "c"], max_loaded=2)
    for time_s, name in enumerate("ab"):
        models.handle(wanted(time_s, name), time_s)
        models.handle(ModelLoaded(name=name), time_s)
    models.handle(ended(1, "b"), 5.0)
    models.handle(ended(0, "a"), 6.0)
    assert models.handle(wanted(2, "c"), 7.0) == [UnloadModel(name="b")]
    assert models.handle(ModelUnloaded(name="b"), 8.0) == [LoadModel(name="c")]
    assert models.handle(ModelLoaded(name="c"), 9.0) == admitted(2)


def test_a_model_with_open_calls_never_goes() -> None:
    models = Residency(["a", "b"], max_loaded=1, idle_s=1.0)
    models.handle(wanted(1, "a"), 0.0)
    models.handle(ModelLoaded(name="a"), 0.0)
    assert models.handle(wanted(2, "b"), 50.0) == []
    assert models.handle(TimePassed(), 100.0) == []
    assert models.wake_s() is None
    assert models.handle(ended(1, "a"), 101.0) == [UnloadModel(name="a")]
    assert models.handle(ModelUnloaded(name="a"), 102.0) == [LoadModel(name="b")]


def test_a_model_goes_once_nobody_has_used_it_for_long_enough() -> None:
    models = Residency(["a"], idle_s=10.0)
    models.handle(wanted(1, "a"), 0.0)
    models.handle(ModelLoaded(name="a"), 1.0)
    models.handle(ended(1, "a"), 5.0)
    assert models.wake_s() == 15.0
    assert models.handle(TimePassed(), 14.9) == []
    assert models.handle(TimePassed(), 15.0) == [UnloadModel(name="a")]
    assert models.handle(wanted(2, "a"), 15.1) == []
    assert models.handle(ModelUnloaded(name="a"), 15.2) == [LoadModel(name="a")]


def test_a_failure_is_told_to_all_that_wait_and_the_next_call_tries_again() -> None:
    models = Residency(["a"])
    models.handle(wanted(1, "a"), 0.0)
    models.handle(wanted(2, "a"), 0.0)
    refused = models.handle(LoadFailed(name="a", reason="no memory"), 1.0)
    assert refused == [RefuseCall(call=CallId(call), reason="no memory") for call in (1, 2)]
    assert models.handle(wanted(3, "a"), 2.0) == [LoadModel(name="a")]


def killed(name: str) -> LoadFailed:
    return LoadFailed(name=name, reason="killed", may_succeed=True)


def test_a_model_that_was_killed_is_loaded_once_more_for_those_that_wait() -> None:
    models = Residency(["a"])
    models.handle(wanted(1, "a"), 0.0)
    assert models.handle(killed("a"), 1.0) == [LoadModel(name="a")]
    assert models.handle(wanted(2, "a"), 1.5) == []
    assert models.handle(ModelLoaded(name="a"), 2.0) == admitted(1, 2)


def test_a_model_that_is_killed_again_is_told_of_and_begins_anew_with_the_next_call() -> None:
    models = Residency(["a"])
    for start_s in (0.0, 10.0):
        models.handle(wanted(1, "a"), start_s)
        assert models.handle(killed("a"), start_s + 1.0) == [LoadModel(name="a")]
        assert models.handle(killed("a"), start_s + 2.0) == [RefuseCall(call=CallId(1), reason="killed")]


def test_a_model_that_was_killed_when_nobody_waits_any_more_stays_away() -> None:
    models = Residency(["a"])
    models.handle(wanted(1, "a"), 0.0)
    models.handle(ended(1, "a"), 0.5)
    assert models.handle(killed("a"), 1.0) == []
    assert models.phase("a") is ModelPhase.ABSENT


def test_nobody_waits_any_more_and_nothing_is_loaded() -> None:
    models = Residency(["a", "b"], max_loaded=1)
    models.handle(wanted(1, "a"), 0.0)
    models.handle(wanted(2, "b"), 0.0)
    models.handle(ended(2, "b"), 0.5)
    models.handle(ModelLoaded(name="a"), 1.0)
    assert models.handle(ended(1, "a"), 2.0) == []


def test_calls_without_end_do_not_keep_others_from_their_model() -> None:
    models = Residency(["a", "b"], max_loaded=1)
    models.handle(wanted(0, "a"), 0.0)
    models.handle(ModelLoaded(name="a"), 0.0)
    assert models.handle(wanted(1, "b"), 1.0) == []
    assert models.wake_s() == 1.0 + PATIENCE_S
    assert models.handle(wanted(2, "a"), 2.0) == admitted(2)
    assert models.handle(ended(0, "a"), 3.0) == []
    assert models.handle(TimePassed(), 1.0 + PATIENCE_S) == []
    assert models.wake_s() is None
    assert models.handle(wanted(3, "a"), 12.0) == [], "b has waited for long enough"
    assert models.handle(ended(2, "a"), 13.0) == [UnloadModel(name="a")]
    assert models.handle(ModelUnloaded(name="a"), 14.0) == [LoadModel(name="b")]
    assert models.handle(ModelLoaded(name="b"), 15.0) == admitted(1)
    assert models.handle(ended(1, "b"), 16.0) == [UnloadModel(name="b")]
    assert models.handle(ModelUnloaded(name="b"), 17.0) == [LoadModel(name="a")]
    assert models.handle(ModelLoaded(name="a"), 18.0) == admitted(3)


def test_a_model_is_held_no_longer_than_others_wait_for_it() -> None:
    models = Residency(["a", "b"], max_loaded=1)
    models.handle(wanted(0, "a"), 0.0)
    models.handle(ModelLoaded(name="a"), 0.0)
    models.handle(wanted(1, "b"), 1.0)
    models.handle(TimePassed(), 20.0)
    assert models.handle(wanted(2, "a"), 20.0) == []
    assert models.handle(ended(1, "b"), 21.0) == admitted(2), "the client that waited has gone away"
    assert models.handle(wanted(3, "a"), 22.0) == admitted(3)


class ResidencyMachine(RuleBasedStateMachine):
    """Any order of calls, loads and failures: limits hold, and every call is answered in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.models = Residency("abc", max_loaded=2, idle_s=5.0)
        self.now_s = 0.0
        self.num_calls = 0
        self.waiting: dict[CallId, str] = {}
        self.open: dict[CallId, str] = {}
        self.loading: deque[str] = deque()
        self.unloading: deque[str] = deque()

    def tell(self, event: ResidencyEvent) -> None:
        for effect in self.models.handle(event, self.now_s):
            self.carry_out(effect)

    def carry_out(self, effect: ResidencyEffect) -> None:
        match effect:
            case AdmitCall(call=call):
                name = self.open[call] = self.waiting.pop(call)
                assert self.models.phase(name) is ModelPhase.READY
            case RefuseCall(call=call):
                del self.waiting[call]
            case LoadModel(name=name):
                assert name not in self.loading
                self.loading.append(name)
            case UnloadModel(name=name):
                assert name not in self.open.values()
                self.unloading.append(name)

    @rule(name=st.sampled_from("abc"))
    def call(self, name: str) -> None:
        call = CallId(self.num_calls)
        self.num_calls += 1
        self.waiting[call] = name
        self.tell(ModelWanted(call=call, name=name))

    @precondition(lambda self: self.open or self.waiting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from([*self.open, *self.waiting]))
        name = self.open.pop(call, None) or self.waiting.pop(call)
        self.tell(CallEnded(call=call, name=name))

    @precondition(lambda self: self.loading)
    @rule(fails=st.booleans(), may_succeed=st.booleans())
    def load(self, fails: bool, may_succeed: bool) -> None:
        name = self.loading.popleft()
        failed = LoadFailed(name=name, reason="no", may_succeed=may_succeed)
        self.tell(failed if fails else ModelLoaded(name=name))

    @precondition(lambda self: self.unloading)
    @rule()
    def unload(self) -> None:
        self.tell(ModelUnloaded(name=self.unloading.popleft()))

    @rule(seconds=st.sampled_from([0.5, 6.0, 2 * PATIENCE_S]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(TimePassed())

    @invariant()
    def no_more_models_than_may_be_there(self) -> None:
        assert sum(self.models.phase(name) is not ModelPhase.ABSENT for name in "abc") <= 2

    def teardown(self) -> None:
        """Whoever waits is answered once others end and what was begun comes to its end."""
        for _ in range(20):
            while self.loading or self.unloading:
                if self.loading:
                    self.tell(ModelLoaded(name=self.loading.popleft()))
                if self.unloading:
                    self.tell(ModelUnloaded(name=self.unloading.popleft()))
            for call, name in list(self.open.items()):
                del self.open[call]
                self.tell(CallEnded(call=call, name=name))
        assert not self.waiting


TestResidency = ResidencyMachine.TestCase
TestResidency.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

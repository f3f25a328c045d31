"""Which of a server's models are loaded: events in, effects out. No I/O, no clock, no randomness.

A call wants a model. If the model is loaded, the call is admitted; otherwise the model is loaded once there is room. If
too many models are loaded, the least recently used one is unloaded first; so is a model that is idle for long enough. A
model with open calls is never unloaded. Once others have waited for a while, however, the model that has been loaded
for the longest is held: new calls of it wait, so that it finishes its open ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, assert_never

CallId = NewType("CallId", int)
PATIENCE_S = 10.0
"""Seconds that a model waits for room before another one is held. A judgment: several times a small one's loading."""

_MORE_LOADS = 1
"""Loads that are tried again if a model's server was killed while loading. A judgment: memory may be short only for a
moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWanted:
    """A call asks for a model."""

    call: CallId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A call has its answer, or its client has gone away. The call may not have been admitted yet."""

    call: CallId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoaded:
    """The workers of a model are ready."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The workers of a model could not be started."""

    name: str
    reason: str
    may_succeed: bool = False
    """Whether it makes sense to try again, because something external ended them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUnloaded:
    """The workers of a model are gone, as requested or because the model was given up."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing has happened; it may be time to unload a model."""


ResidencyEvent = ModelWanted | CallEnded | ModelLoaded | LoadFailed | ModelUnloaded | TimePassed


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitCall:
    """Let this call proceed: its model is loaded."""

    call: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseCall:
    """Refuse this call: its model cannot be loaded."""

    call: CallId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel:
    """Start the workers of this model."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadModel:
    """Stop the workers of this model."""

    name: str


ResidencyEffect = AdmitCall | RefuseCall | LoadModel | UnloadModel


class ModelPhase(Enum):
    """Phase of a model's workers."""

    ABSENT = "unloaded"
    LOADING = "loading"
    READY = "loaded"
    UNLOADING = "unloading"


@dataclass(slots=True)
class _Model:
    name: str
    phase: ModelPhase = ModelPhase.ABSENT
    open_calls: set[CallId] = field(default_factory=set[CallId])
    waiting: deque[CallId] = field(default_factory=deque[CallId])
    used_s: float = 0.0
    """When the latest call ended, or the model was loaded."""
    ready_s: float = 0.0
    """When the model was loaded."""
    wanted_s: float = 0.0
    """When the first of its waiting calls arrived."""
    num_failures: int = 0
    """Failed loads in a row that were tried again."""


class Residency:
    """Loads and unloads the models of one server. All changes go through `handle`."""

    def __init__(self, names: Sequence[str], *, max_loaded: int | None = None, idle_s: float | None = None) -> None:
        """Start without loaded models.

        Args:
            names: the names of all models, at least one.
            max_loaded: the most models that may be loaded at once, >= 1; None: all.
            idle_s: seconds without a call after which a model is unloaded; None: never.
        """
        self._models = {name: _Model(name) for name in names}
        self._max_loaded = len(names) if max_loaded is None else max_loaded
        self._idle_s = idle_s
        self._queue: deque[str] = deque()
        """Models that calls wait for and that are not loading yet, the one that waits longest first."""
        self._held: str | None = None
        """The held model, whose new calls wait."""

    def phase(self, name: str) -> ModelPhase:
        """The phase of a model."""
        return self._models[name].phase

    @property
    def has_room(self) -> bool:
        """Whether another model may be loaded without unloading one."""
        return len(self._there) < self._max_loaded

    def num_open(self, name: str) -> int:
        """The number of a model's open calls."""
        return len(self._models[name].open_calls)

    def wake_s(self) -> float | None:
        """The time at which `TimePassed` must be passed on; None: it need not be."""
        times = [model.used_s + (self._idle_s or 0.0) for model in self._models.values() if self._is_idle(model)]
        if self._idle_s is None:
            times.clear()
        if self._queue and self._held is None and all(one.open_calls for one in self._there):
            times.append(self._models[self._queue[0]].wanted_s + PATIENCE_S)
        return min(times, default=None)

    def handle(self, event: ResidencyEvent, now_s: float) -> list[ResidencyEffect]:
        """Take in an event. Returns effects to carry out in order."""
        effects: list[ResidencyEffect] = []
        match event:
            case ModelWanted(call=call, name=name):
                self._want(self._models[name], call, now_s, effects)
            case CallEnded(call=call, name=name):
                self._end(self._models[name], call, now_s)
            case ModelLoaded(name=name):
                self._become_ready(self._models[name], now_s, effects)
            case LoadFailed(name=name, reason=reason, may_succeed=may_succeed):
                self._fail(self._models[name], reason, may_succeed, effects)
            case ModelUnloaded(name=name):
                self._become_absent(self._models[name])
            case TimePassed():
                self._unload_idle(now_s, effects)
            case _:
                assert_never(event)
        self._make_progress(now_s, effects)
        return effects

    @property
    def _there(self) -> list[_Model]:
        """The models that count towards `max_loaded`."""
        return [model for model in self._models.values() if model.phase is not ModelPhase.ABSENT]

    def _want(self, model: _Model, call: CallId, now_s: float, effects: list[ResidencyEffect]) -> None:
        if model.phase is ModelPhase.READY and model.name != self._held:
            model.open_calls.add(call)
            effects.append(AdmitCall(call=call))
            return
        if not model.waiting:
            model.wanted_s, model.num_failures = now_s, 0
        model.waiting.append(call)
        if model.phase is not ModelPhase.LOADING and model.name not in self._queue:
            self._queue.append(model.name)

    def _end(self, model: _Model, call: CallId, now_s: float) -> None:
        if call in model.open_calls:
            model.open_calls.remove(call)
            model.used_s = now_s
        elif call in model.waiting:
            model.waiting.remove(call)
            if not model.waiting and model.name in self._queue:
                self._queue.remove(model.name)

    def _become_ready(self, model: _Model, now_s: float, effects: list[ResidencyEffect]) -> None:
        model.phase, model.used_s, model.ready_s = ModelPhase.READY, now_s, now_s
        model.num_failures = 0
        self._admit(model, effects)

    def _fail(self, model: _Model, reason: str, may_succeed: bool, effects: list[ResidencyEffect]) -> None:
        """Load again for the waiting calls if that makes sense; otherwise refuse them."""
        model.phase = ModelPhase.ABSENT
        if may_succeed and model.waiting and model.num_failures < _MORE_LOADS:
            model.num_failures += 1
            self._queue.appendleft(model.name)
            return
        model.num_failures = 0
        effects += [RefuseCall(call=call, reason=reason) for call in model.waiting]
        model.waiting.clear()

    def _admit(self, model: _Model, effects: list[ResidencyEffect]) -> None:
        """Admit the waiting calls of a model."""
        effects += [AdmitCall(call=call) for call in model.waiting]
        model.open_calls |= set(model.waiting)
        model.waiting.clear()

    def _become_absent(self, model: _Model) -> None:
        """Note that a model is unloaded. Calls that have arrived since queue again; open ones failed with the
        workers."""
        model.phase = ModelPhase.ABSENT
        model.open_calls.clear()
        self._let_go(model)
        if model.waiting and model.name not in self._queue:
            self._queue.append(model.name)

    def _unload_idle(self, now_s: float, effects: list[ResidencyEffect]) -> None:
        if self._idle_s is None:
            return
        for model in self._models.values():
            if self._is_idle(model) and now_s >= model.used_s + self._idle_s:
                self._unload(model, effects)

    def _make_progress(self, now_s: float, effects: list[ResidencyEffect]) -> None:
        """Load what is wanted while there is room, and make room where there is none."""
        while self._queue:
            model = self._models[self._queue[0]]
            if model.phase is ModelPhase.UNLOADING:
                return  # it is loaded again once it is unloaded
            if model.phase is ModelPhase.READY:  # the model for which it was held is not wanted any more
                self._queue.popleft()
                self._let_go(model)
                self._admit(model, effects)
                continue
            if not self.has_room:
                self._make_room(now_s - model.wanted_s >= PATIENCE_S, effects)
                return
            self._queue.popleft()
            model.phase = ModelPhase.LOADING
            effects.append(LoadModel(name=model.name))

    def _make_room(self, is_urgent: bool, effects: list[ResidencyEffect]) -> None:
        """Unload the least recently used idle model or, if it is urgent, hold one so that it becomes idle."""
        there = self._there
        if any(one.phase is ModelPhase.UNLOADING for one in there):
            return
        if idle := [one for one in there if self._is_idle(one)]:
            self._unload(min(idle, key=lambda one: (one.name != self._held, one.used_s)), effects)
        elif is_urgent and self._held is None:
            ready = [one for one in there if one.phase is ModelPhase.READY]
            self._held = min(ready, key=lambda one: one.ready_s).name if ready else None

    def _let_go(self, model: _Model) -> None:
        """End the hold of a model, so that it gets new calls again."""
        if self._held == model.name:
            self._held = None

    def _unload(self, model: _Model, effects: list[ResidencyEffect]) -> None:
        self._let_go(model)
        model.phase = ModelPhase.UNLOADING
        effects.append(UnloadModel(name=model.name))

    @staticmethod
    def _is_idle(model: _Model) -> bool:
        return model.phase is ModelPhase.READY and not model.open_calls

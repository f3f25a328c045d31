"""Which of a server's models have their workers: events in, effects out. No I/O, no clock, no randomness.

A call wants a model. If its workers are there, it is admitted; else they are started, once there is room: when more
models are loaded than may be at once, the one that nobody has used for longest goes first. A model that nobody uses for
long enough goes as well. A model that has open calls never goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, assert_never

CallId = NewType("CallId", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWanted:
    """A call asks for a model."""

    call: CallId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A call has its answer, or its client has gone away, admitted or not."""

    call: CallId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoaded:
    """The workers of a model are there."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """They could not be started."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUnloaded:
    """The workers of a model are gone, as was asked for or because they were lost for good."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing has happened; it may be time to unload a model."""


ResidencyEvent = ModelWanted | CallEnded | ModelLoaded | LoadFailed | ModelUnloaded | TimePassed


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitCall:
    """The model of this call is there."""

    call: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseCall:
    """The model of this call cannot be had."""

    call: CallId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel:
    """Start the workers of this model."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadModel:
    """Stop them."""

    name: str


ResidencyEffect = AdmitCall | RefuseCall | LoadModel | UnloadModel


class ModelPhase(Enum):
    """Where a model is."""

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
    """When the latest call ended, or the workers came."""


class Residency:
    """Decides for all models of one server. All changes go through `handle`."""

    def __init__(self, names: Sequence[str], *, max_loaded: int | None = None, idle_s: float | None = None) -> None:
        """No model is there yet.

        Args:
            names: of the models, at least one.
            max_loaded: models that may be there at once, >= 1; None: all.
            idle_s: seconds without a call after which a model goes; None: it stays.
        """
        self._models = {name: _Model(name) for name in names}
        self._max_loaded = len(names) if max_loaded is None else max_loaded
        self._idle_s = idle_s
        self._queue: deque[str] = deque()
        """Models that calls wait for and that have not begun to load, the longest wanted first."""

    def phase(self, name: str) -> ModelPhase:
        """Where a model is."""
        return self._models[name].phase

    @property
    def has_room(self) -> bool:
        """Whether another model may be loaded without one going for it."""
        return sum(model.phase is not ModelPhase.ABSENT for model in self._models.values()) < self._max_loaded

    def num_open(self, name: str) -> int:
        """Calls that a model works on."""
        return len(self._models[name].open_calls)

    def wake_s(self) -> float | None:
        """When `TimePassed` is due at the latest; None: never, as things are."""
        idle = [model.used_s for model in self._models.values() if self._is_idle(model)]
        return None if self._idle_s is None or not idle else min(idle) + self._idle_s

    def handle(self, event: ResidencyEvent, now_s: float) -> list[ResidencyEffect]:
        """Take in what has happened; what to do about it, in order."""
        effects: list[ResidencyEffect] = []
        match event:
            case ModelWanted(call=call, name=name):
                self._want(self._models[name], call, effects)
            case CallEnded(call=call, name=name):
                self._end(self._models[name], call, now_s)
            case ModelLoaded(name=name):
                self._become_ready(self._models[name], now_s, effects)
            case LoadFailed(name=name, reason=reason):
                model = self._models[name]
                model.phase = ModelPhase.ABSENT
                effects += [RefuseCall(call=call, reason=reason) for call in model.waiting]
                model.waiting.clear()
            case ModelUnloaded(name=name):
                self._become_absent(self._models[name])
            case TimePassed():
                self._unload_idle(now_s, effects)
            case _:
                assert_never(event)
        self._make_progress(effects)
        return effects

    def _want(self, model: _Model, call: CallId, effects: list[ResidencyEffect]) -> None:
        if model.phase is ModelPhase.READY:
            model.open_calls.add(call)
            effects.append(AdmitCall(call=call))
            return
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
        model.phase, model.used_s = ModelPhase.READY, now_s
        effects += [AdmitCall(call=call) for call in model.waiting]
        model.open_calls |= set(model.waiting)
        model.waiting.clear()

    def _become_absent(self, model: _Model) -> None:
        """Calls that came meanwhile are waited for anew; open ones were told by the workers' loss."""
        model.phase = ModelPhase.ABSENT
        model.open_calls.clear()
        if model.waiting and model.name not in self._queue:
            self._queue.append(model.name)

    def _unload_idle(self, now_s: float, effects: list[ResidencyEffect]) -> None:
        if self._idle_s is None:
            return
        for model in self._models.values():
            if self._is_idle(model) and now_s >= model.used_s + self._idle_s:
                self._unload(model, effects)

    def _make_progress(self, effects: list[ResidencyEffect]) -> None:
        """Load what is wanted while there is room, and make room where there is none."""
        while self._queue:
            model = self._models[self._queue[0]]
            if model.phase is ModelPhase.UNLOADING:
                return  # its turn comes when it is gone
            there = [one for one in self._models.values() if one.phase is not ModelPhase.ABSENT]
            if len(there) >= self._max_loaded:
                leaving = sum(one.phase is ModelPhase.UNLOADING for one in there)
                idle = [one for one in there if self._is_idle(one)]
                if not leaving and idle:
                    self._unload(min(idle, key=lambda one: one.used_s), effects)
                return
            self._queue.popleft()
            model.phase = ModelPhase.LOADING
            effects.append(LoadModel(name=model.name))

    def _unload(self, model: _Model, effects: list[ResidencyEffect]) -> None:
        model.phase = ModelPhase.UNLOADING
        effects.append(UnloadModel(name=model.name))

    @staticmethod
    def _is_idle(model: _Model) -> bool:
        return model.phase is ModelPhase.READY and not model.open_calls

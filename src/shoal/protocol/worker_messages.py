"""Messages between the head and its workers for all kinds of work: typed, versioned, without pickle.

A worker is told what to load, then who its neighbors are, and again whenever one of them was lost.
"""

from __future__ import annotations

from typing import NewType

import msgspec

from shoal.protocol.device_config import DeviceConfig

PROTOCOL_VERSION = 16

Generation = NewType("Generation", int)
"""The number of a replica's set of links, which rises with each loss; messages of older generations are ignored."""


class FileState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state of a file on this machine at one moment; another state means that its contents may have changed."""

    name: str
    """The name relative to the model's folder."""
    num_bytes: int
    mtime_ns: int
    """The time of the latest change."""
    inode: int
    header_sha256: str
    """SHA-256 of the first bytes, in hex."""


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The common part of the first message to a worker: the model's file, and the worker's place in its replica."""

    version: int
    model_path: str
    stage_index: int
    num_stages: int
    rank: int
    """The rank of this shard in its stage's group."""
    cores: tuple[int, ...]
    """CPU ids to which the worker is pinned; empty: not pinned."""
    files: tuple[FileState, ...] = ()
    """The model's files as the head opened them; empty if the worker's machine has files of its own."""
    device: DeviceConfig | None = None
    """The device on which to compute; None: the processor."""


class StageLoaded(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=4):
    """The worker has loaded its part."""

    weight_bytes: int
    load_s: float
    note: str | None = None
    """A note for the user about how it computes; None: there is none."""


class StageFailed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=5):
    """The worker could not load, or has met an error that it cannot survive; it exits after this message."""

    generation: Generation
    error: str
    """The name of the error class in shoal.errors."""
    message: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=6):
    """Loading progress of one worker."""

    done: int
    total: int


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=7):
    """Asks a worker to finish and exit."""


class Neighbor(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A worker of the same replica to which another one has a link."""

    stage: int
    where: str = ""
    """Its address; empty: on this machine, over descriptors that the head passes."""
    name: str = ""
    """Its name for messages; empty: not known."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=8):
    """Head to a loaded worker: its neighbors from now on. It drops its links to others and all earlier work."""

    generation: Generation
    sources: tuple[Neighbor, ...] = ()
    """One shard of each stage that feeds this one, by stage; none in the first stage."""
    consumers: tuple[Neighbor, ...] = ()
    """Shards of later stages that this one feeds."""
    group: tuple[Neighbor, ...] = ()
    """All shards of this stage by rank; empty: it is the only one."""


class Wired(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=10):
    """The worker has its neighbors and is ready for work."""

    generation: Generation
    row_s: float
    """Seconds that it took for a single row; 0: not measured."""


class LinkLost(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=9):
    """A neighbor is lost. This worker keeps what it has loaded and waits for new neighbors."""

    generation: Generation
    message: str

"""What the head and its workers say to each other whatever the work is: typed, versioned, no pickle.

A worker is told what to load, then who its neighbors are, and again whenever one of them was lost.
"""

from __future__ import annotations

from typing import NewType

import msgspec

from shoal.protocol.device_config import DeviceConfig

PROTOCOL_VERSION = 16

Generation = NewType("Generation", int)
"""Number of a replica's set of links, which each loss raises; what belongs to an older one is ignored."""


class FileState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A file as it was on this machine at one moment: another state means that the content may be another."""

    name: str
    """relative to the model's folder"""
    num_bytes: int
    mtime_ns: int
    """of the latest change"""
    inode: int
    header_sha256: str
    """of the first bytes, in hex"""


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the first message to a worker says whatever the work is: which file, and the worker's place in its
    replica."""

    version: int
    model_path: str
    stage_index: int
    num_stages: int
    rank: int
    """of this shard in its stage's group"""
    cores: tuple[int, ...]
    """CPU ids to pin to; empty: not pinned"""
    files: tuple[FileState, ...] = ()
    """the model's files as the head opened them; empty where the worker's machine has files of its own"""
    device: DeviceConfig | None = None
    """what to compute on; None: the processor"""


class StageLoaded(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=4):
    """The worker has loaded its part."""

    weight_bytes: int
    load_s: float
    note: str | None = None
    """what a user should know of how it is computed; None: nothing"""


class StageFailed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=5):
    """The worker could not load or hit an error it cannot pass; it exits after this."""

    generation: Generation
    error: str
    """name of the error class in shoal.errors"""
    message: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=6):
    """Loading progress of one worker."""

    done: int
    total: int


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=7):
    """Asks a worker to finish and exit."""


class Neighbor(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A worker of the same replica that another one has a link to."""

    stage: int
    where: str = ""
    """how it is reached; empty: on this machine, by descriptors that the head hands over"""
    name: str = ""
    """what to call it in messages; empty: not told"""


class Wire(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=8):
    """To a worker that has loaded: who its neighbors are from now on. It is cut off from others, and no earlier work
    counts."""

    generation: Generation
    sources: tuple[Neighbor, ...] = ()
    """one shard of each stage that feeds this one, by stage; none in the first stage"""
    consumers: tuple[Neighbor, ...] = ()
    """shards of later stages that this one feeds"""
    group: tuple[Neighbor, ...] = ()
    """all shards of this stage by rank; empty: it is the only one"""


class Wired(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=10):
    """The worker has its neighbors and is ready for work."""

    generation: Generation
    row_s: float
    """seconds that it took for a single row; 0: not measured"""


class LinkLost(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=9):
    """A neighbor is gone. This worker keeps what it has loaded and waits for others to be wired to."""

    generation: Generation
    message: str

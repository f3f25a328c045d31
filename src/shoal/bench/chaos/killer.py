"""Killing seeded random workers at fixed intervals, and recording the kills."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass

from shoal.bench.chaos.config import ChaosConfig
from shoal.server.switch.server_process import ServerProcess


@dataclass(slots=True, kw_only=True)
class Kill:
    """A worker that was killed or stopped. Times are of `time.perf_counter`."""

    pid: int
    at_s: float
    num_serving: int
    """Replicas that had all their workers just before, as far as was known."""
    num_recovering: int
    """Replicas that lacked workers just before."""
    gone_s: float | None = None
    """Time at which the process ended; for a stopped worker, when the server had noticed and killed it."""

    @property
    def is_first(self) -> bool:
        """Whether all replicas had their workers before."""
        return not self.num_recovering

    @property
    def leaves_others(self) -> bool:
        """Whether another replica could take over the requests."""
        return self.is_first and self.num_serving > 1


class Killer:
    """Kills workers while `run` runs."""

    def __init__(self, config: ChaosConfig, server: ServerProcess) -> None:
        self.kills: list[Kill] = []
        self.num_serving = self.num_recovering = 0
        """Replicas with and without all their workers; the caller keeps both up to date."""
        self._server = server
        self._period_s = config.kill_every_s
        self._signal = signal.SIGKILL if config.signal_name == "kill" else signal.SIGSTOP
        self._rng = random.Random(f"{config.seed}/kills")

    async def run(self) -> None:
        """Kill workers until cancelled. Skips a kill if all workers are being started."""
        next_s = time.perf_counter()
        while True:
            next_s += self._period_s
            await asyncio.sleep(next_s - time.perf_counter())
            if workers := self._server.workers():
                self._kill(self._rng.choice(workers))

    def _kill(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        kill = Kill(pid=pid, at_s=time.perf_counter(), num_serving=self.num_serving, num_recovering=self.num_recovering)
        self.kills.append(kill)
        loop = asyncio.get_running_loop()

        def note_end() -> None:
            kill.gone_s = time.perf_counter()
            loop.remove_reader(handle)
            os.close(handle)

        loop.add_reader(handle, note_end)
        signal.pidfd_send_signal(handle, self._signal)

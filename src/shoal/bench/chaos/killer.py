"""Kills workers on a schedule, at random but by a seed, and notes when it did."""

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
    """One worker that was killed or stopped. Times of time.perf_counter."""

    pid: int
    at_s: float
    num_serving: int
    """replicas that had all their workers just before, as far as was known"""
    num_recovering: int
    """replicas that had not"""
    gone_s: float | None = None
    """when the process had ended: for a stopped worker, when the server had noticed"""

    @property
    def is_first(self) -> bool:
        """Whether everything worked before."""
        return not self.num_recovering

    @property
    def leaves_others(self) -> bool:
        """Whether there was another replica to go to."""
        return self.is_first and self.num_serving > 1


class Killer:
    """Kills while `run` runs."""

    def __init__(self, config: ChaosConfig, server: ServerProcess) -> None:
        self.kills: list[Kill] = []
        self.num_serving = self.num_recovering = 0
        """replicas with and without all their workers, to be kept up to date"""
        self._server = server
        self._period_s = config.kill_every_s
        self._signal = signal.SIGKILL if config.signal_name == "kill" else signal.SIGSTOP
        self._rng = random.Random(f"{config.seed}/kills")

    async def run(self) -> None:
        """Kill workers until it is cancelled. There is no kill in a period in which all of them are being started."""
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

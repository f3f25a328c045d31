"""Several hosts on one machine: network namespaces, joined by a bridge in a namespace of its own, a raylet in each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_PREFIX = f"shoal-{os.getpid()}"
_SUBNET = "10.213.7"
_PORT = 6379
_OBJECT_STORE_BYTES = 80 << 20
_COMMAND_TIMEOUT_S = 120.0
_HEALTH_CHECKS = "100"
"""that a host may miss until Ray takes it for dead and its raylet ends: tests pull cables for longer than Ray's default
of 5 and put them back"""
_NUM_STARTS = 4
"""of Ray on a host: it waits a minute for its own processes, which is not enough on a busy machine"""
_HAS_JOINED = "Ray runtime started."
"""what `ray start` says once Ray's head knows the host"""
_RAY = (sys.executable, "-m", "ray.scripts.scripts")


def why_not() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the ip command"
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        return "Ray is not installed"
    probe = subprocess.run(["ip", "netns", "add", f"{_PREFIX}-probe"], capture_output=True)
    if probe.returncode:
        return "no network namespace may be made here"
    subprocess.run(["ip", "netns", "del", f"{_PREFIX}-probe"], check=True)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One namespace."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The same command, in the namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def processes(self, words: str) -> set[int]:
        """Ids of processes that run here and have these words in their command."""
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout.split()
        return {int(pid) for pid in pids if words in _command_of(pid)}

    def set_link(self, is_up: bool) -> None:
        """Plug its cable in, or pull it: bytes vanish, no connection is told."""
        _run("ip", "-n", self.namespace, "link", "set", "eth0", "up" if is_up else "down")

    def limit(self, bits_per_s: int) -> None:
        """Send no faster than that."""
        rate, burst = f"{bits_per_s}bit", str(max(4096, bits_per_s // 1600))  # bytes: 5 ms
        _run(
            *("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf"),
            *("rate", rate, "burst", burst, "latency", "400ms"),
        )

    def unlimited(self) -> None:
        """As before `limit`."""
        _run("tc", "-n", self.namespace, "qdisc", "del", "dev", "eth0", "root")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts that reach each other, and nobody else does."""
    switch = f"{_PREFIX}-switch"
    with ExitStack() as undo:
        _add_namespace(switch, undo)
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        made = [Host(namespace=f"{_PREFIX}-{index}", address=f"{_SUBNET}.{index + 1}") for index in range(count)]
        for index, host in enumerate(made):
            _add_namespace(host.namespace, undo)
            _run(
                *("ip", "-n", switch, "link", "add", f"port{index}", "type", "veth", "peer", "name", "eth0"),
                *("netns", host.namespace),
            )
            _run("ip", "-n", switch, "link", "set", f"port{index}", "master", "br0", "up")
            _run("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", host.namespace, "link", "set", device, "up")
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class RayHosts:
    """Hosts of one Ray cluster, the first being its head."""

    hosts: Sequence[Host]
    environment: dict[str, str]
    only_here: Path
    """a folder that is empty on the last host, as long as that stays"""
    raylets: dict[Host, ExitStack]
    """that run, and how to end them"""
    pins: dict[Host, Sequence[str]]
    """words before a command that hold it to the host's own core, if it has one"""

    def shoal(self, *arguments: str) -> list[str]:
        """A `shoal` command on the first host."""
        return self.hosts[0].command(sys.executable, "-m", "shoal.cli.main", *arguments)

    def leave(self, host: Host) -> None:
        """As a machine does that is switched off: its raylet ends at once, and all that it has started."""
        _end_all(host.namespace)
        self.raylets.pop(host).close()

    def join(self, host: Host) -> None:
        """Start a raylet on a host that has none; it is part of the cluster when this returns."""
        self.raylets[host] = ExitStack()
        self.raylets[host].enter_context(_raylet(host, self.hosts[0], self.environment, self.pins[host]))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.shoal(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
        )


@contextmanager
def ray_hosts(count: int, *, has_own_core: bool = False) -> Iterator[RayHosts]:
    """A Ray cluster over so many hosts; with `has_own_core`, each has the one of this machine that has its number."""
    with hosts(count) as made, ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="shoal-ray-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = os.environ | {
            "RAY_ADDRESS": f"{made[0].address}:{_PORT}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # else a token in the user's home turns half of it on
            "RAY_health_check_failure_threshold": _HEALTH_CHECKS,
            "RAY_memory_monitor_refresh_ms": "0",  # other tests, which run beside these, may need the machine's memory
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        only_here, empty = folder / "only-here", folder / "empty"
        only_here.mkdir()
        empty.mkdir()
        raylets: dict[Host, ExitStack] = {}
        pins: dict[Host, Sequence[str]] = {
            host: ("taskset", "-c", str(core)) if has_own_core else () for core, host in enumerate(made)
        }
        undo.callback(lambda: [raylets[host].close() for host in reversed(made) if host in raylets])
        for index, host in enumerate(made):
            hide = f"mount --bind {empty} {only_here} && " if index == count - 1 else ""
            start = (*pins[host], "sh", "-c", hide + 'exec "$@"', "sh")
            raylets[host] = ExitStack()
            head = made[0] if index else None
            raylets[host].enter_context(_raylet(host, head, environment, start, temp=folder / "r"))
        yield RayHosts(hosts=made, environment=environment, only_here=only_here, raylets=raylets, pins=pins)


@contextmanager
def _raylet(
    host: Host, head: Host | None, environment: dict[str, str], start: Sequence[str], temp: Path | None = None
) -> Iterator[None]:
    """One that has joined; of the head itself, where that is None. `start`: words before the command."""
    join = ("--head", f"--port={_PORT}") if head is None else (f"--address={head.address}:{_PORT}",)
    folder = (f"--temp-dir={temp}", "--include-dashboard=false") if head is None else ()
    command = host.command(
        *start,
        *(*_RAY, "start", *join, *folder, f"--node-ip-address={host.address}", "--num-cpus=1", "--block"),
        *(f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats", "--include-log-monitor=false"),
    )
    for _ in range(_NUM_STARTS):
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        ) as starting:
            assert starting.stdout is not None
            try:
                if any(_HAS_JOINED in line for line in starting.stdout):
                    yield
                    return
            finally:
                _end(starting)
        _end_all(host.namespace)
    raise AssertionError(f"Ray did not start on {host.address}")


def _command_of(pid: str) -> str:
    """Empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _end(process: subprocess.Popen[str]) -> None:
    """`ray start --block` ends what it has started when it is asked to."""
    process.terminate()
    try:
        process.wait(30.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _add_namespace(name: str, undo: ExitStack) -> None:
    _run("ip", "netns", "add", name)
    undo.callback(_delete_namespace, name)


def _delete_namespace(name: str) -> None:
    _end_all(name)
    _run("ip", "netns", "del", name)


def _end_all(namespace: str) -> None:
    """Whoever runs in it is one of ours."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
    subprocess.run(["kill", "-9", *pids], capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}"

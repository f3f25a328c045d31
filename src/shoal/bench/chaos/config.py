"""Settings of a chaos run, which kills workers of a server that is in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError

SignalName = Literal["kill", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig:
    """A closed loop of clients, and workers that are killed meanwhile. Raises ConfigError for invalid values."""

    model: str
    server_options: tuple[str, ...] = ()
    """Options of `shoal serve`, such as ("--split", "dp=2,pp=2")."""
    kill_every_s: float = 2.0
    """Seconds between two kills, > 0."""
    signal_name: SignalName = "kill"
    """kill: the worker ends; stop: it hangs."""
    clients: int = 8
    """Number of clients, each with one request in flight, >= 1."""
    requests: int = 100
    """Requests of each client, >= 1."""
    prompt_tokens: int = 32
    """Words of each prompt, about one token each, >= 1."""
    output_tokens: int = 24
    """Output tokens of each request, >= 1."""
    adapters: tuple[str, ...] = ()
    """Names of adapters that requests use in turn, besides the language model itself."""
    guided: bool = False
    """Whether to ask a language model for guided outputs and tool calls, with up to three choices per request."""
    seed: int = 0
    """Seed of the prompts, of sampling and of the choice of killed workers."""
    minutes: float | None = None
    """Duration with kills, in which the requests are repeated; None: until each has been answered once."""

    def __post_init__(self) -> None:
        if min(self.clients, self.requests, self.prompt_tokens, self.output_tokens) < 1:
            raise ConfigError("numbers of clients, requests and tokens must be at least 1")
        if not self.kill_every_s > 0 or not (self.minutes is None or self.minutes > 0):
            raise ConfigError("times must be more than 0")

    @property
    def num_requests(self) -> int:
        """Number of different requests of all clients."""
        return self.clients * self.requests

"""What to do to a server while it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError

SignalName = Literal["kill", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig:
    """A closed loop of clients, and workers that are killed meanwhile. Raises ConfigError for what makes no sense."""

    model: str
    server_options: tuple[str, ...] = ()
    """for `shoal serve`, such as ("--split", "dp=2,pp=2")"""
    kill_every_s: float = 2.0
    """between two kills, > 0"""
    signal_name: SignalName = "kill"
    """kill: the worker is gone; stop: it hangs"""
    clients: int = 8
    """requests that are always under way, >= 1"""
    requests: int = 100
    """of each client, >= 1"""
    prompt_tokens: int = 32
    """words of each prompt, about a token each, >= 1"""
    output_tokens: int = 24
    """of each request, >= 1"""
    adapters: tuple[str, ...] = ()
    """names that requests of a language model ask for in turn, beside the model's own"""
    guided: bool = False
    """ask a language model for outputs of a given form and calls of tools, up to three choices a request"""
    seed: int = 0
    """of the prompts, of what is drawn and of who is killed"""
    minutes: float | None = None
    """go on for so long, with the same requests again and again; None: until each has been answered once"""

    def __post_init__(self) -> None:
        if min(self.clients, self.requests, self.prompt_tokens, self.output_tokens) < 1:
            raise ConfigError("numbers of clients, requests and tokens must be at least 1")
        if not self.kill_every_s > 0 or not (self.minutes is None or self.minutes > 0):
            raise ConfigError("times must be more than 0")

    @property
    def num_requests(self) -> int:
        """Different ones, of all clients."""
        return self.clients * self.requests

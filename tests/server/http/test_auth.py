"""Keys that are none are refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.executor.process.child_process import worker_environment
from shoal.server.http.auth import read_api_key


@pytest.mark.parametrize("key", ["", " ", "\t\n", " a", "a\n", "schlüssel", "a\0b", "a" * 5000])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^--api-key"):
        read_api_key(key, None)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"a" * (1 << 20), b"a\nb"])
def test_what_is_no_key_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--api-key-file .*key"):
        read_api_key(None, tmp_path / "key")


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret words\n")
    assert read_api_key(None, None) is None
    assert read_api_key("secret", None) == "secret"
    assert read_api_key(None, tmp_path / "key") == "secret words"
    with pytest.raises(ConfigError, match="give only one of them"):
        read_api_key("secret", tmp_path / "key")
    with pytest.raises(ConfigError, match="No such file"):
        read_api_key(None, tmp_path / "nothing")


def test_workers_do_not_know_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_API_KEY", "secret")
    monkeypatch.setenv("KEPT", "x")
    environment = worker_environment()
    assert "SHOAL_API_KEY" not in environment
    assert environment["KEPT"] == "x"

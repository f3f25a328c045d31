"""HTTPS with the official client, and files that cannot serve."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import openai
import pytest

from shoal.errors import ConfigError
from shoal.server.http.tls import check_tls
from tests.server.certificates import write_certificate
from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, run_server


def test_the_official_client_over_https(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=files.cert)
    with run_server(FakeEngine(), api_key="key", tls=check_tls(files.cert, files.key)) as running:
        assert running.url.startswith("https://127.0.0.1:")
        with (
            httpx.Client(verify=trusted) as http,
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="key", max_retries=0, http_client=http) as client,
        ):
            answer = client.completions.create(model=MODEL, prompt="{abc}")
            chunks = list(client.completions.create(model=MODEL, prompt="{abc}", stream=True))
        assert answer.choices[0].text == "abc"
        assert "".join(chunk.choices[0].text for chunk in chunks) == "abc"


def test_who_does_not_know_the_certificate_or_speaks_plain_http_gets_nothing(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    with run_server(FakeEngine(), tls=files) as running:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{running.url}/health")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{running.url}/health".replace("https", "http"))


def test_neither_file_is_no_tls() -> None:
    assert check_tls(None, None) is None


def test_one_file_alone_is_one_clear_line(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    with pytest.raises(ConfigError, match=r"^--tls-cert needs --tls-key: [^\n]*$"):
        check_tls(files.cert, None)
    with pytest.raises(ConfigError, match=r"^--tls-key needs --tls-cert: [^\n]*$"):
        check_tls(None, files.key)


def test_files_that_cannot_serve_are_one_clear_line(tmp_path: Path) -> None:
    files, other = write_certificate(tmp_path), write_certificate(tmp_path, "other")
    locked = write_certificate(tmp_path, "locked", password=b"secret")
    text, missing = tmp_path / "notes.txt", tmp_path / "missing.pem"
    text.write_text("no PEM")
    for cert, key, complaint in (
        (missing, files.key, f"--tls-cert {missing}: No such file or directory"),
        (files.cert, missing, f"--tls-key {missing}: No such file or directory"),
        (files.cert, tmp_path, f"--tls-key {tmp_path}: Is a directory"),
        (text, files.key, f"--tls-cert {text}: there is no certificate in PEM format"),
        (files.cert, text, f"--tls-key {text}: no unencrypted private key"),
        (files.cert, files.cert, f"--tls-key {files.cert}: no unencrypted private key"),
        (locked.cert, locked.key, f"--tls-key {locked.key}: no unencrypted private key"),
        (files.cert, other.key, f"--tls-key {other.key}: not the key of the certificate {files.cert}"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_tls(cert, key)
        assert str(caught.value).startswith(complaint)
        assert "\n" not in str(caught.value)

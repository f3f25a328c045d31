"""HTTPS: a certificate and its key, checked before anything slow begins."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A server's certificate and key, in PEM format."""

    cert: Path
    """The certificate, followed by those between it and its root."""
    key: Path
    """The certificate's private key, not encrypted."""


def check_tls(cert: Path | None, key: Path | None) -> TlsFiles | None:
    """The given files, after checking that they belong together; None if none was given.

    Raises:
        ConfigError: a file is missing, unreadable or invalid.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        raise ConfigError(f"{given} needs {missing}: give both, or neither to serve without TLS")
    for option, path in (("--tls-cert", cert), ("--tls-key", key)):
        _check_readable(option, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=cert)
    except ssl.SSLError:
        raise ConfigError(f"--tls-cert {cert}: there is no certificate in PEM format") from None
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(f"--tls-key {key}: {_reason(error, cert)}") from None
    return TlsFiles(cert=cert, key=key)


def _check_readable(option: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from error


def _reason(error: ssl.SSLError, cert: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"not the key of the certificate {cert}"
    detail = f" ({error.reason})" if error.reason else ""
    return f"no unencrypted private key in PEM format that serves with {cert}{detail}"

"""Who belongs to a cluster: an authority for each cluster start, and certificates that it signs for the processes.

No private key leaves its machine: another machine creates its own (`MachineKey`) and sends a signing request to get a
certificate. Certificates contain no names: only the signature counts, because addresses are not known in advance and
every process may take any place.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from shoal.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

VALID_FOR = datetime.timedelta(days=90)
"""Must outlast the cluster, since links are created again whenever a worker is lost. Keys exist only in memory and end
with their processes."""
_CLOCK_SKEW = datetime.timedelta(hours=24)
"""How far another machine's clock may be behind, wrong time zones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a process needs to join a cluster. Plain data, for processes of one machine, where others cannot read it."""

    authority_pem: bytes
    """Certificate of the only authority that is trusted."""
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    """Private key of the certificate, not encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The authority's answer to a signing request. It is no secret, as it is useless without the request's key."""

    authority_pem: bytes
    """Certificate of the only authority that is trusted."""
    certificate_pem: bytes


class MachineKey:
    """A private key that stays on its machine. Raises ConfigError if `cryptography` is missing."""

    def __init__(self) -> None:
        self._key = _new_key()

    def request(self) -> bytes:
        """A signing request for the key, PEM, for `ClusterAuthority.admit`. Source: RFC 2986."""
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def credentials(self, membership: Membership) -> Credentials:
        """The credentials for processes of this machine."""
        return Credentials(
            authority_pem=membership.authority_pem,
            certificate_pem=membership.certificate_pem,
            key_pem=_key_pem(self._key),
        )


class ClusterAuthority:
    """Signs certificates for the processes of one cluster start. Raises ConfigError if `cryptography` is missing."""

    def __init__(self, *, valid_for: datetime.timedelta = VALID_FOR) -> None:
        """`valid_for`: validity from now on, of the authority and of its certificates."""
        self._expires = datetime.datetime.now(datetime.UTC) + valid_for
        self._key = _new_key()
        self._certificate = _sign(
            "shoal cluster", self._key.public_key(), self._expires, authority=None, authority_key=self._key
        )

    def issue(self) -> Credentials:
        """Credentials with a key of their own, for this machine."""
        key = MachineKey()
        return key.credentials(self.admit(key.request()))

    def admit(self, request_pem: bytes) -> Membership:
        """Admit the owner of a signing request's key to the cluster. Raises ConfigError if the request is malformed."""
        public_key = _requested_key(request_pem)
        certificate = _sign(
            "shoal process", public_key, self._expires, authority=self._certificate, authority_key=self._key
        )
        return Membership(
            authority_pem=_certificate_pem(self._certificate), certificate_pem=_certificate_pem(certificate)
        )


def listening_context(credentials: Credentials) -> ssl.SSLContext:
    """The TLS context of the side that listens. Raises ConfigError if the credentials are invalid."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0  # nobody resumes sessions, and a ticket would be another way in
    return context


def connecting_context(credentials: Credentials) -> ssl.SSLContext:
    """The TLS context of the side that connects. Raises ConfigError if the credentials are invalid."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    """TLS 1.3 between peers that both have a certificate from the same authority."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(cadata=credentials.authority_pem.decode())
        _load_key(context, credentials)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"these are not the credentials of a cluster: {error}") from error
    return context


def _load_key(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Load a key from memory that nobody else can open by name, because the module `ssl` reads keys only from files."""
    with os.fdopen(os.memfd_create("shoal-credentials"), "wb") as file:
        file.write(credentials.certificate_pem + credentials.key_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _new_key() -> EllipticCurvePrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        _say_what_is_missing()
    return ec.generate_private_key(ec.SECP256R1())


def _say_what_is_missing() -> NoReturn:
    raise MissingExtra("links between machines need cryptography", "ray") from None


def _requested_key(request_pem: bytes) -> EllipticCurvePublicKey:
    """The public key in a request. Raises ConfigError if the request is malformed, or not signed with this key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    except ModuleNotFoundError:
        _say_what_is_missing()
    try:
        request = x509.load_pem_x509_csr(request_pem)
        public_key, is_own = request.public_key(), request.is_signature_valid
    except ValueError as error:
        raise ConfigError(f"this is not a signing request: {error}") from error
    if not is_own or not isinstance(public_key, EllipticCurvePublicKey):
        raise ConfigError("this signing request was not made with the key that it names")
    return public_key


def _sign(
    common_name: str,
    key: EllipticCurvePublicKey,
    expires: datetime.datetime,
    *,
    authority: x509.Certificate | None,
    authority_key: EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A certificate for a key, or that of an authority if none is given. Source: RFC 5280, section 4.2."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    is_authority = authority is None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.datetime.now(datetime.UTC), expires) - _CLOCK_SKEW)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(_key_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if not is_authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(authority_key, SHA256())


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

"""Kind of the server at an address: two short connections that send nothing of the caller."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509

from verdictd_py.domain.addresses import Address
from verdictd_py.formats.greetings import ANSWER_BYTES, Greeting, greeting_of

SECONDS: Final = 2.0
"""Time limit of each connection."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""First bytes of an HTTP/2 client (RFC 9113, 3.4): gRPC answers them, and others with an error."""

_RATS_TLS: Final = "RATS-TLS"  # wire-rats-tls.md: common name of each certificate
_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_WRONG_TIME: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_GET: Final = b"GET / HTTP/1.0\r\n\r\n"


class Kind(StrEnum):
    """Kind of a server, as a sentence about it names it."""

    REFUSED = "no server"
    NO_HOST = "no host"
    NO_ANSWER = "no answer"
    NO_SOCKET = "no socket"
    SILENT = "a server that sends nothing"
    HTTP = Greeting.HTTP.value
    HTTPS = "an HTTPS server"
    GRPC = Greeting.HTTP2.value
    GRPC_TLS = "a gRPC server with TLS"
    RATS_TLS = "a broker's attestation listener (--listen)"
    TLS = "a TLS server"
    SSH = Greeting.SSH.value
    MAIL = Greeting.MAIL.value
    REDIS = Greeting.REDIS.value
    OTHER = Greeting.OTHER.value


ABSENT: Final = frozenset((Kind.REFUSED, Kind.NO_HOST, Kind.NO_ANSWER, Kind.NO_SOCKET))
"""Kinds without a server."""

_PLAIN: Final = {
    Greeting.HTTP: Kind.HTTP,
    Greeting.HTTP2: Kind.GRPC,
    Greeting.SSH: Kind.SSH,
    Greeting.MAIL: Kind.MAIL,
    Greeting.REDIS: Kind.REDIS,
}


def kind_of(address: Address) -> Kind:
    """Return the kind of the server at an address. It blocks for at most some seconds."""
    seconds = SECONDS
    try:
        first = _answer(address, PREFACE, seconds)
    except OSError as error:
        return _absent(error, address)
    greeting = greeting_of(first) if first else Greeting.TLS  # most TLS servers just close
    if greeting in _PLAIN:
        return _PLAIN[greeting]
    with suppress(OSError, ValueError):
        return _tls_kind(address, seconds)
    if not first:
        return Kind.SILENT
    return Kind.TLS if greeting is Greeting.TLS else Kind.OTHER


def absence(kind: Kind, address: Address) -> str:
    """Return why there is no server, as a main clause."""
    texts = {
        Kind.REFUSED: "nothing listens there",
        Kind.NO_HOST: f"there is no host {address.host!r}",
        Kind.NO_ANSWER: "the host does not answer, or a firewall drops the packets",
        Kind.NO_SOCKET: f"there is no socket {address.unix}",
    }
    return texts[kind]


def certificate_problem(address: Address, ca: Path) -> str:
    """Return why a certificate is not accepted, with the remedy; empty if that is not known.

    The text is the predicate of a sentence about the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(ca)
        with (
            closing(_connect(address, SECONDS)) as connection,
            context.wrap_socket(connection, server_hostname=address.host or "localhost"),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _WRONG_NAME:
            return f"is not for {address.host}: write a name of the certificate in -c"
        if error.verify_code in _WRONG_TIME:
            return f"is not valid now ({error.verify_message}): renew it, or correct the clock"
        return f"this CA did not issue ({error.verify_message}): correct --tls-ca"
    except (OSError, ValueError):
        return ""


def _absent(error: OSError, address: Address) -> Kind:
    if isinstance(error, socket.gaierror):
        return Kind.NO_HOST
    if isinstance(error, FileNotFoundError) and address.unix:
        return Kind.NO_SOCKET
    if isinstance(error, ConnectionRefusedError):
        return Kind.REFUSED
    return Kind.NO_ANSWER


def _connect(address: Address, seconds: float) -> socket.socket:
    if not address.unix:
        return socket.create_connection((address.host, address.port), seconds)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        connection.connect(address.unix)
    except OSError:
        connection.close()
        raise
    return connection


def _answer(address: Address, request: bytes, seconds: float) -> bytes:
    """Return the first bytes that the server sends, empty if there are none in time.

    Raises:
        OSError: no connection.
    """
    with closing(_connect(address, seconds)) as connection, suppress(OSError):
        connection.sendall(request)
        return _first(connection.recv)
    return b""


def _first(receive: Callable[[int], bytes]) -> bytes:
    """Return the first bytes, enough to know their kind."""
    first = b""
    with suppress(OSError):
        while len(first) < ANSWER_BYTES and (more := receive(ANSWER_BYTES)):
            first += more
            if greeting_of(first) is not Greeting.OTHER:
                break
    return first


def _tls_kind(address: Address, seconds: float) -> Kind:
    """Return the kind of a TLS server.

    Raises:
        OSError: it is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent, and nothing is believed
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    name = None if address.unix or _is_numeric(address.host) else address.host
    with (
        closing(_connect(address, seconds)) as connection,
        context.wrap_socket(connection, server_hostname=name) as tls,
    ):
        if _is_rats_tls(tls.getpeercert(binary_form=True) or b""):
            return Kind.RATS_TLS
        if tls.selected_alpn_protocol() == "h2":
            return Kind.GRPC_TLS
        if tls.selected_alpn_protocol() == "http/1.1":
            return Kind.HTTPS
        with suppress(OSError):
            tls.sendall(_GET)
            if greeting_of(_first(tls.recv)) is Greeting.HTTP:
                return Kind.HTTPS
        return Kind.TLS


def _is_rats_tls(certificate: bytes) -> bool:
    try:
        subject = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:
        return False
    return _RATS_TLS in subject


def _is_numeric(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()

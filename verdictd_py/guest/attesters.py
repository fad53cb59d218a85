"""Sources of a guest's evidence: a simulated platform, or the TDX guest it runs in."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto

from verdictd_py.errors import ConfigError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.protocols.ratstls.session import client_context
from verdictd_py.simulator import Flaw, SimulatedPlatform, TdMeasurements, collateral_json
from verdictd_py.tsm import TsmQuotes

COLLATERAL_FILE: Final = "collateral.json"
"""File next to the platform's own files, for a broker's option `--collateral`."""


class Attester(Protocol):
    """Source of evidence about the guest."""

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over 64 bytes of REPORTDATA."""
        ...

    def endorsements(self, now: datetime) -> Collateral | None:
        """Return the collateral to send with the evidence, or None."""
        ...


class SimulatedAttester:
    """Evidence of a simulated TDX guest.

    Args:
        measurements: of the guest; default: those of an honest one.
        flaw: the flaw of its quotes, or None.
        endorse: send the platform's collateral in the certificate.
    """

    def __init__(
        self,
        platform: SimulatedPlatform,
        measurements: TdMeasurements | None = None,
        *,
        flaw: Flaw | None = None,
        endorse: bool = False,
    ) -> None:
        self._platform = platform
        self._measurements = measurements
        self._flaw = flaw
        self._endorse = endorse

    def quote(self, report_data: bytes) -> bytes:
        return self._platform.quote(report_data, self._measurements, flaw=self._flaw)

    def endorsements(self, now: datetime) -> Collateral | None:
        return self._platform.collateral(now) if self._endorse else None


class TsmAttester:
    """Evidence of the TDX guest that this process runs in."""

    def __init__(self) -> None:
        self._quotes = TsmQuotes()

    def quote(self, report_data: bytes) -> bytes:
        return self._quotes.quote(report_data)

    def endorsements(self, now: datetime) -> Collateral | None:
        del now
        return None


def simulated_platform(directory: Path, *, now: datetime) -> SimulatedPlatform:
    """Load the platform in `directory`, or create it there, and renew its collateral.

    Raises:
        ConfigError: the directory cannot be read or written.
    """
    try:
        exists = (directory / "platform.json").exists()
    except OSError as error:
        raise ConfigError(
            f"cannot use {directory}: {error.strerror}; give --platform DIR"
        ) from error
    if exists:
        platform = SimulatedPlatform.load(directory)
    else:
        platform = SimulatedPlatform.create(now=now)
        platform.save(directory)
    try:
        (directory / COLLATERAL_FILE).write_text(collateral_json(platform.collateral(now)))
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {error.strerror}") from error
    return platform


def guest_context(
    attester: Attester | None, form: Form, *, now: datetime, garbage: bytes = b""
) -> SSL.Context:
    """Return TLS settings of a guest with a fresh key and a certificate with its evidence.

    Args:
        attester: source of the evidence; None for a certificate without evidence.
        form: the generation of the certificate; ignored without an attester.
        garbage: padding, as guests with libcbor before 0.10 send it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    if attester is None:
        certificate = issue(Form.NULL, key=key, quote_for=None, now=now)
    else:
        certificate = issue(
            form,
            key=key,
            quote_for=attester.quote,
            now=now,
            endorsements=attester.endorsements(now),
            garbage=garbage,
        )
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    context = client_context(private)
    use_certificate(context, certificate)
    return context


def use_certificate(context: SSL.Context, certificate: bytes) -> None:
    """Load a certificate of any generation into `context`, through a file in memory."""
    with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
        file.write(certificate)
        context.use_certificate_file(f"/proc/self/fd/{file.fileno()}", crypto.FILETYPE_ASN1)

"""Problems of a server certificate for which guests refuse it, now or soon."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509

AHEAD: Final = timedelta(days=30)
"""Time before the end of a certificate from which its renewal is due."""

_REFUSE: Final = "guests refuse the certificate of --kbs-tls-cert"
_RENEW: Final = "replace its files and send SIGHUP"


def first_end(pem: bytes) -> datetime | None:
    """Return when the first of several certificates expires; None if their form is unknown."""
    try:
        return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What guests examine in a server certificate, next to its chain.

    webpki, which CDH and kbs_protocol use through rustls, accepts no CA's certificate and no
    certificate without a name in subjectAltName.
    """

    not_before: datetime
    not_after: datetime
    is_ca: bool
    has_names: bool

    @classmethod
    def read(cls, pem: bytes) -> Self | None:
        """Read the first certificate; None if its form is unknown, which OpenSSL accepted."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            extensions = certificate.extensions
        except (ValueError, x509.DuplicateExtension):
            return None
        return cls(
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            _is_ca(extensions),
            _has_names(extensions),
        )

    def problems(self, now: datetime) -> tuple[str, ...]:
        """Return a sentence with its remedy for each problem."""
        problems = []
        if self.is_ca:
            problems.append(
                f"{_REFUSE}: it is a CA's certificate (CA:TRUE), which guests refuse as a "
                "server's; have a CA issue one with CA:FALSE, or create one with openssl req "
                "-x509 -addext basicConstraints=critical,CA:FALSE"
            )
        elif not self.has_names:
            problems.append(
                f"{_REFUSE}: it has no name (subjectAltName); have it issued for the host name "
                "or address in the URL of guests"
            )
        if now < self.not_before:
            problems.append(
                f"{_REFUSE}: it is not valid before {_day(self.not_before)}; compare the clock "
                "of this host with the time, or replace the certificate"
            )
        if now >= self.not_after:
            problems.append(f"{_REFUSE}: it expired on {_day(self.not_after)}; {_RENEW}")
        elif self.not_after - now <= AHEAD:
            days = (self.not_after - now).days
            problems.append(
                f"the certificate of --kbs-tls-cert expires on {_day(self.not_after)}, in {days} "
                f"days, and guests refuse it then; {_RENEW}"
            )
        return tuple(problems)


def _is_ca(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _has_names(extensions: x509.Extensions) -> bool:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return any(isinstance(name, (x509.DNSName, x509.IPAddress)) for name in names)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"

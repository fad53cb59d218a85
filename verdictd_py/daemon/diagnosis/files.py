"""Checks of the files of the settings: TLS, keys, roles, administrators; rights and owners."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509

from verdictd_py.config import Address, Settings, Unsafe
from verdictd_py.daemon import decidingfiles
from verdictd_py.daemon.diagnosis.finding import Finding, Result, refusal, summary, validity
from verdictd_py.daemon.kbs import require_separate_admins
from verdictd_py.domain.callers import ROLES, Right
from verdictd_py.errors import ConfigError
from verdictd_py.events.heads import HeadSigner
from verdictd_py.listeners.callers import read_roles
from verdictd_py.listeners.kbs.files import read_admins, read_token_key
from verdictd_py.listeners.kbs.tls import KbsTls
from verdictd_py.listeners.tls import TlsFiles
from verdictd_py.storage.layout import group_id

SECRETS: Final = (
    "client_api_key",
    "kbs_tls_key",
    "kbs_token_key",
    "audit_key",
    "collateral_api_key_file",
)
"""Settings that name the file of a secret."""

_YEAR: Final = timedelta(days=365)
_REPLACE: Final = "replace its files and send SIGHUP"


def rights(settings: Settings, unsafe: Unsafe) -> Iterator[Finding]:
    """Check who may change the files of the settings, and who may read the secrets."""

    def problems() -> Iterator[Finding]:
        for problem in decidingfiles.problems(settings, unsafe):
            yield Finding("rights", "", Result.FAILURE, problem)
        for name in SECRETS:
            path = getattr(settings, name)
            if path is not None and _is_open(path):
                text = f"other users can read this secret; run 'chmod o-r {path}'"
                yield Finding("rights", str(path), Result.WARNING, text)

    yield from summary("rights", "", problems(), "only this user and root change the files")


def _is_open(path: Path) -> bool:
    """Return whether every user can read a file: its mode, and that of each directory above it."""
    try:
        if (path.parent / "..data").is_symlink():  # a volume of Kubernetes, which only pods have
            return False
        real = path.resolve(strict=True)
        if not real.stat().st_mode & stat.S_IROTH:
            return False
        return all(above.stat().st_mode & stat.S_IXOTH for above in real.parents)
    except OSError:
        return False


def client_api(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Check the TLS files and the roles of the client API."""
    cert, key = settings.client_api_cert, settings.client_api_key
    ca, roles = settings.client_api_ca, settings.client_api_roles
    if cert is None or key is None or ca is None or roles is None:
        return

    def problems() -> Iterator[Finding]:
        try:
            files = TlsFiles.read("--client-api", cert, key, ca)
        except ConfigError as error:
            yield Finding("tls", "--client-api-cert", Result.FAILURE, str(error))
            return
        addresses = [*settings.client_api_addresses[:1]]
        if settings.keyprovider_api_address is not None:
            addresses.append(settings.keyprovider_api_address)
        own = x509.load_pem_x509_certificate(files.certificate)
        subject = f"--client-api-cert {cert}"
        start, end = own.not_valid_before_utc, own.not_valid_after_utc
        yield from validity("tls", subject, start, end, now, _REPLACE)
        yield from _names(subject, own, addresses)
        for issuer in x509.load_pem_x509_certificates(files.ca):
            subject = f"--client-api-ca {ca}"
            start, end = issuer.not_valid_before_utc, issuer.not_valid_after_utc
            yield from validity("tls", subject, start, end, now, _REPLACE)

    yield from summary("tls", "--client-api-cert", problems(), f"{cert} is valid")

    def of_roles() -> Iterator[Finding]:
        try:
            by_name = read_roles(roles)
        except ConfigError as error:
            yield Finding("roles", "--client-api-roles", Result.FAILURE, str(error))
            return
        if not any(Right.MANAGE in ROLES[role] for role in by_name.values()):
            text = f'no name in {roles} may manage the broker; add "NAME" = "operator"'
            yield Finding("roles", "--client-api-roles", Result.WARNING, text)

    yield from summary("roles", "--client-api-roles", of_roles(), f"{roles} can be used")


def _names(
    subject: str, certificate: x509.Certificate, addresses: Sequence[Address]
) -> Iterator[Finding]:
    """Check that a certificate has the names and addresses by which clients connect."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        text = (
            "it has no name (subjectAltName), so that every client refuses it; have it issued for "
            "the name by which clients connect"
        )
        yield Finding("tls", subject, Result.FAILURE, text)
        return
    known = {
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    }
    for address in addresses:
        if not address.unix and _is_specific(address.host) and address.host not in known:
            text = (
                f"it is not for {address.host}, at which the broker listens, but for "
                f"{', '.join(sorted(known))}; clients must connect by one of these names, or have "
                "it issued for that address too"
            )
            yield Finding("tls", subject, Result.WARNING, text)


def _is_specific(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return True


def kbs(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Check the certificate, the key of tokens and the administrators of the HTTP listener."""
    if settings.kbs_http is None:
        return
    cert, key = settings.kbs_tls_cert, settings.kbs_tls_key
    if cert is not None and key is not None:
        found = _kbs_certificate(settings, cert, key, now)
        yield from summary("tls", "--kbs-tls-cert", found, f"{cert} is valid")
    token_key, admins = settings.kbs_token_key, settings.kbs_admins
    if token_key is not None:
        problems = list(refusal("tls", "--kbs-token-key", partial(read_token_key, token_key)))
        yield from summary("tls", "--kbs-token-key", problems, f"{token_key} can be used")
        token_key = None if problems else token_key
    if admins is not None:

        def read() -> None:
            keys = read_admins(admins)
            if token_key is not None:
                require_separate_admins(admins, keys, (read_token_key(token_key).public_key(),))

        found = refusal("administrators", "--kbs-admins", read)
        yield from summary("administrators", "--kbs-admins", found, f"{admins} can be used")


def _kbs_certificate(settings: Settings, cert: Path, key: Path, now: datetime) -> Iterator[Finding]:
    subject = f"--kbs-tls-cert {cert}"
    try:
        certificate = KbsTls.read(cert, key).certificate
    except ConfigError as error:
        yield Finding("tls", subject, Result.FAILURE, str(error))
        return
    if certificate is None:
        return
    current = replace(certificate, not_before=now - _YEAR, not_after=now + _YEAR)
    for problem in current.problems(now):  # without those of its time
        yield Finding("tls", subject, Result.FAILURE, problem)
    start, end = certificate.not_before, certificate.not_after
    yield from validity("tls", subject, start, end, now, _REPLACE)
    address = settings.kbs_http_address
    if address is not None and certificate.has_names and not certificate.is_ca:
        own = x509.load_pem_x509_certificate(cert.read_bytes())
        yield from _names(subject, own, [address])


def audit(settings: Settings) -> Iterator[Finding]:
    """Check the key that signs the audit trail, and the group that reads it."""
    key = settings.audit_key
    if key is not None:
        found = refusal("audit", "--audit-key", lambda: HeadSigner.read(key))
        yield from summary("audit", "--audit-key", found, f"{key} can be used")
    group = settings.audit_group
    if group is not None:
        found = refusal("audit", "--audit-group", lambda: group_id(group))
        yield from summary("audit", "--audit-group", found, f"the group {group} exists")

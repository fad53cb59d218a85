"""Protection of the gRPC listeners: TLS, and the rules that identify callers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from verdictd_py.config import Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.callers import CallerRules, lessened_roles, read_roles
from verdictd_py.listeners.reread import Reloadable, Reread, differences
from verdictd_py.listeners.tls import TlsFiles, TrustedClients


@dataclass(frozen=True, slots=True)
class Protection:
    """Protection of the gRPC listeners.

    Attributes:
        rules: how callers are identified.
        tls: TLS files for every TCP address; None without TLS.
        files: the files that can be read again.
    """

    rules: CallerRules
    tls: Reread[TlsFiles] | None = None
    files: tuple[Reloadable, ...] = ()


def protection(settings: Settings, unsafe: Unsafe) -> Protection:
    """Return the rules for callers, and the TLS files if TLS is on.

    Raises:
        ConfigError: other hosts can reach an address, and nothing protects it.
    """
    require_complete(settings)
    cert, key, client_ca, roles = _files(settings).values()
    if cert and key and client_ca and roles:
        return _with_certificates(cert, key, client_ca, roles)
    require_protected(settings, unsafe)
    rules = CallerRules(
        insecure_loopback=unsafe.insecure_loopback, insecure_open=unsafe.insecure_client_api
    )
    return Protection(rules)


def require_complete(settings: Settings) -> None:
    """Refuse some of the four TLS files without the others.

    Raises:
        ConfigError: files are missing.
    """
    files = _files(settings)
    missing = ", ".join(option for option, file in files.items() if file is None)
    if missing and any(files.values()):
        raise ConfigError(
            "TLS for the client API needs all of --client-api-cert, --client-api-key, "
            f"--client-api-ca and --client-api-roles; give the missing ones: {missing}"
        )


def require_protected(settings: Settings, unsafe: Unsafe) -> None:
    """Refuse addresses without TLS that other hosts can reach.

    Raises:
        ConfigError: there is one.
    """
    if any(_files(settings).values()):
        return
    addresses = {"--client-api": settings.client_api_addresses[0]}
    if settings.keyprovider_api_address is not None:
        addresses["--keyprovider-api"] = settings.keyprovider_api_address
    for option, address in addresses.items():
        if not address.local and not unsafe.insecure_client_api:
            raise ConfigError(
                f"{option} {address} can be reached from other hosts and has no TLS; give "
                "--client-api-cert, -key, -ca and -roles, or a loopback address, or unix:/path "
                "(--insecure-client-api gives every caller every key)"
            )


def _files(settings: Settings) -> dict[str, Path | None]:
    """Return the TLS files by option."""
    return {
        "--client-api-cert": settings.client_api_cert,
        "--client-api-key": settings.client_api_key,
        "--client-api-ca": settings.client_api_ca,
        "--client-api-roles": settings.client_api_roles,
    }


def _with_certificates(cert: Path, key: Path, client_ca: Path, roles: Path) -> Protection:
    read_tls = partial(TlsFiles.read, "--client-api", cert, key, client_ca)
    tls = Reread(read_tls, TlsFiles.differences, TlsFiles.lessened)
    by_name = Reread(partial(read_roles, roles), partial(differences, "role of"), lessened_roles)
    rules = CallerRules(
        certificate_roles=lambda: by_name.current,
        is_trusted=TrustedClients(tls).is_trusted,
    )
    return Protection(rules, tls, (by_name, tls))

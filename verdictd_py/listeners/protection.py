"""Protection of the gRPC listeners: TLS, and the rules that identify callers."""

from __future__ import annotations

from verdictd_py.config import Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.callers import CallerRules, read_roles
from verdictd_py.listeners.tls import TlsFiles


def protection(settings: Settings, unsafe: Unsafe) -> tuple[CallerRules, TlsFiles | None]:
    """Return the rules for callers, and the TLS files if TLS is on (for every TCP address).

    Raises:
        ConfigError: other hosts can reach an address, and nothing protects it.
    """
    files = {
        "--client-api-cert": settings.client_api_cert,
        "--client-api-key": settings.client_api_key,
        "--client-api-ca": settings.client_api_ca,
        "--client-api-roles": settings.client_api_roles,
    }
    cert, key, client_ca, roles = files.values()
    if cert and key and client_ca and roles:
        tls = TlsFiles.read("--client-api", cert, key, client_ca)
        return CallerRules(certificate_roles=read_roles(roles)), tls
    if any(files.values()):
        missing = ", ".join(option for option, file in files.items() if file is None)
        raise ConfigError(
            "TLS for the client API needs all of --client-api-cert, --client-api-key, "
            f"--client-api-ca and --client-api-roles; give the missing ones: {missing}"
        )
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
    rules = CallerRules(
        insecure_loopback=unsafe.insecure_loopback, insecure_open=unsafe.insecure_client_api
    )
    return rules, None

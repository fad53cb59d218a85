"""Proxies of the environment: which one a URL needs, as curl and Go choose it.

Container engines and Kubernetes set these variables in every container, with values for other
programs. A value that cannot be read is therefore ignored with a warning.

Sources: curl(1), "--noproxy" and "ENVIRONMENT"; Go, package golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

_HTTP: Final = ("http", "https")
_SOCKS: Final = ("socks4", "socks4a", "socks5", "socks5h", "socks")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NO_PROXY: Final = "NO_PROXY"
_MAX_VARIABLE: Final = 64 * 1024

_Ip = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: its URL, which may contain a password.
        variable: the variable or option that names it.
        supported: whether it is an HTTP proxy. The broker has no SOCKS client.
    """

    url: str = field(repr=False)
    variable: str
    supported: bool = True


@dataclass(frozen=True, slots=True)
class _Exception:
    """An entry of NO_PROXY: a network, or a domain with an optional port."""

    network: IPv4Network | IPv6Network | None = None
    domain: str = ""
    subdomains_only: bool = False
    port: int | None = None

    def exempts(self, host: str, ip: _Ip | None, port: int | None) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return ip is not None and ip.version == self.network.version and ip in self.network
        same = host == self.domain and not self.subdomains_only
        return ip is None and (same or host.endswith(f".{self.domain}"))


@dataclass(frozen=True, slots=True)
class SiteProxies:
    """The proxies of a site.

    Attributes:
        by_scheme: the proxy for `http` and for `https` URLs, if there is one.
        exceptions: entries of NO_PROXY; None: no URL needs a proxy.
        warning: which variables were ignored and why, without their values; empty if none.
    """

    by_scheme: Mapping[str, Proxy]
    exceptions: tuple[_Exception, ...] | None = ()
    warning: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; the lower-case spelling of a name has precedence, as in curl."""
        problems: list[str] = []
        found: dict[str, Proxy] = {}
        for scheme in _HTTP:
            for name in (f"{scheme}_proxy", "all_proxy"):
                variable, value = _variable(environment, name)
                if not value:
                    continue
                proxy = _proxy(value, variable)
                if proxy is not None:
                    found[scheme] = proxy
                    break
                problems.append(f"{variable} is not the URL of a proxy")
        variable, value = _variable(environment, _NO_PROXY.lower())
        exceptions, unreadable = _exceptions(value)
        if unreadable:
            problems.append(f"{variable} has entries that are not a host, network or domain")
        text = "; ".join(dict.fromkeys(problems))
        warning = f"ignored: {text}; correct or unset it" if text else ""
        return cls(found, exceptions, warning)

    @classmethod
    def of_option(cls, url: str) -> Self:
        """Return the one proxy that `--collateral-proxy` names, for every URL.

        Raises:
            ValueError: it is not the URL of an HTTP proxy.
        """
        parts = urlsplit(url)
        if parts.scheme not in _HTTP or _proxy(url, "--collateral-proxy") is None:
            raise ValueError("it is not an http:// or https:// URL")
        proxy = Proxy(url, "--collateral-proxy")
        return cls(dict.fromkeys(_HTTP, proxy), ())

    def of(self, url: str) -> Proxy | None:
        """Return the proxy for a URL, None for a direct connection.

        A loopback address of this host never needs a proxy of the environment.
        """
        parts = urlsplit(url)
        proxy = self.by_scheme.get(parts.scheme)
        if proxy is None or self.exceptions is None:
            return None
        if proxy.variable.startswith("--"):
            return proxy
        host = (parts.hostname or "").rstrip(".").lower()
        ip = _ip(host)
        if host == "localhost" or (ip is not None and ip.is_loopback):
            return None
        port = _port(parts)
        exempt = any(entry.exempts(host, ip, port) for entry in self.exceptions)
        return None if exempt else proxy


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return a variable's name as it is spelled, and its value; empty if it is not set."""
    for spelled in (name, name.upper()):
        value = environment.get(spelled, "").strip()
        if value:
            return spelled, value
    return name.upper(), ""


def _proxy(value: str, variable: str) -> Proxy | None:
    """Read a proxy's URL, which may lack the scheme; return None if it is none."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # an address in brackets, or a port
        return None
    scheme = parts.scheme.lower()
    if not usable or scheme not in (*_HTTP, *_SOCKS):
        return None
    return Proxy(url, variable, supported=scheme in _HTTP)


def _exceptions(value: str) -> tuple[tuple[_Exception, ...] | None, bool]:
    """Read NO_PROXY; the second value is whether entries were ignored."""
    entries: list[_Exception] = []
    unreadable = len(value) > _MAX_VARIABLE
    for text in value[:_MAX_VARIABLE].replace(",", " ").split():
        if text == "*":
            return None, unreadable
        entry = _exception(text.lower())
        if entry is None:
            unreadable = True
        else:
            entries.append(entry)
    return tuple(entries), unreadable


def _exception(text: str) -> _Exception | None:
    """Read an entry of NO_PROXY: a network, an address, or a domain; return None for another."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return _Exception(network=ip_network(bare, strict=False))
    except ValueError:
        pass
    if "/" in text:
        return None
    try:
        parts = urlsplit(f"//{text}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    ip = _ip(host)
    if ip is not None:
        return _Exception(network=ip_network(ip), port=port)
    domain = host.removeprefix("*").removeprefix(".")
    if not domain or "*" in domain or ":" in domain or "@" in text:
        return None
    return _Exception(domain=domain, subdomains_only=host.startswith(("*.", ".")), port=port)


def _ip(host: str) -> _Ip | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _port(parts: SplitResult) -> int | None:
    return parts.port or _DEFAULT_PORTS.get(parts.scheme)

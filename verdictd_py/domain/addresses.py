"""Addresses of listeners, as the operator writes them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Self

DEFAULT_CLIENT_API: Final = "[::1]:60000"
CLIENT_API_WITHOUT_IPV6: Final = "127.0.0.1:60000"


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a listener: `host` and `port`, or the path of a unix socket in `unix`."""

    host: str = ""
    port: int = 0
    unix: str = ""

    @classmethod
    def parse(cls, text: str, *, unix_allowed: bool = False) -> Self:
        """Parse `host:port`, `[v6]:port` or, if it is allowed, `unix:/path`.

        Raises:
            ValueError: the text has another form; the message gives the correct one.
        """
        if text.startswith("unix:"):
            if not unix_allowed or not text.startswith("unix:/"):
                raise ValueError(f"{text!r} is not served here: write host:port or [ipv6]:port")
            return cls(unix=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address is written in brackets, [::1]:1234")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{text!r} is not an address: write host:port or [ipv6]:port")
        return cls(host=host, port=int(port))

    @property
    def local(self) -> bool:
        """Whether only this host can reach it: a unix socket, or a loopback address or name."""
        if self.unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_client_api() -> tuple[Address, ...]:
    """Return the addresses that daemon and `verdict-py` try in order if none is given."""
    return Address.parse(DEFAULT_CLIENT_API), Address.parse(CLIENT_API_WITHOUT_IPV6)

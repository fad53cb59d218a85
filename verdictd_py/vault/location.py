"""Location of an object in Vault: `vault:https://host:8200/MOUNT/NAME?OPTIONS`.

The location has no secret: options name the files of the token, the secret id or the JWT.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

from verdictd_py.domain.spelling import did_you_mean
from verdictd_py.errors import ConfigError
from verdictd_py.secretfiles import CREDENTIAL, NamedFile, credential_file
from verdictd_py.vault.logins import AppRole, Kubernetes, Login, TokenFile

SCHEME: Final = "vault:"
DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 60.0
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where the kubelet puts the JWT of a pod's service account."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
_LOGIN_OPTIONS: Final = (
    *("token-file", "role-id", "secret-id-file", "kubernetes-role", "jwt-file", "auth-mount"),
)
_OPTIONS: Final = (*_LOGIN_OPTIONS, "ca", "namespace", "timeout")


@dataclass(frozen=True, slots=True)
class Location:
    """A server, an object in it, and how to log in.

    Attributes:
        origin: scheme, host and port.
        path: segments of the object's path: the mount, and a name in it.
        ca: file of the CA certificates that are trusted; None for the system's.
        namespace: namespace of the object and of the login; empty for the root.
        timeout: time limit of one request in seconds.
    """

    origin: str
    path: tuple[str, ...]
    login: Login
    ca: Path | None = None
    namespace: str = ""
    timeout: float = DEFAULT_TIMEOUT_S

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """The files that the location names."""
        secret = self.login.secret_file
        return (secret,) if self.ca is None else (secret, NamedFile(self.ca))

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Parse a location, with or without `vault:`.

        Args:
            option: the setting that has the text, for messages.

        Raises:
            ConfigError: it is not a location; the message has the remedy.
        """
        try:
            return cls._parse(text.removeprefix(SCHEME))
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from None

    @classmethod
    def _parse(cls, text: str) -> Self:
        url = urlsplit(text)
        if url.username or url.password or url.fragment:
            raise ValueError("the URL has a user, a password or a fragment: remove it")
        if url.port == 0:  # raises ValueError for one that is not a number, or too large
            raise ValueError("the port of the URL is 0: write that of the server, as 8200")
        if not url.hostname or not _is_protected(url.scheme, url.hostname):
            raise ValueError(
                "write vault:https://HOST:8200/MOUNT/NAME; http:// is for loopback addresses only"
            )
        path = tuple(url.path.strip("/").split("/"))
        if not all(map(_SEGMENT.fullmatch, path)):
            raise ValueError("the path of the URL must be the path of a mount, as transit/NAME")
        options = _options(url.query)
        namespace = options.get("namespace", "").strip("/")
        if namespace and not all(map(_SEGMENT.fullmatch, namespace.split("/"))):
            raise ValueError("namespace= is not the path of a namespace")
        return cls(
            f"{url.scheme}://{url.netloc}",
            path,
            _login(options),
            Path(options["ca"]) if "ca" in options else None,
            namespace,
            _timeout(options.get("timeout")),
        )


def _is_protected(scheme: str, host: str) -> bool:
    """Tell whether the token is not sent in plain text over a network."""
    if scheme != "http":
        return scheme == "https"
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if name not in _OPTIONS:
            raise ValueError(f"there is no option {name!r}{did_you_mean(name, _OPTIONS)}")
        if name in options or not value:
            raise ValueError(f"{name}= is empty, or there twice")
        options[name] = value
    return options


def _login(options: dict[str, str]) -> Login:
    ways = [name for name in ("token-file", "role-id", "kubernetes-role") if name in options]
    if len(ways) != 1:
        raise ValueError(
            "name one login: token-file=FILE, or role-id=ID and secret-id-file=FILE, or "
            "kubernetes-role=ROLE"
        )
    needed = {"token-file": (), "role-id": ("secret-id-file",), "kubernetes-role": ()}[ways[0]]
    allowed = {
        "token-file": (),
        "role-id": ("secret-id-file", "auth-mount"),
        "kubernetes-role": ("jwt-file", "auth-mount"),
    }[ways[0]]
    given = set(options) & set(_LOGIN_OPTIONS) - {ways[0]}
    if wrong := sorted(given - set(allowed)):
        raise ValueError(f"{wrong[0]}= has no effect with {ways[0]}=: remove it")
    if missing := [name for name in needed if name not in options]:
        raise ValueError(f"{ways[0]}= needs {missing[0]}=")
    mount = options.get("auth-mount", "").strip("/")
    if mount and not all(map(_SEGMENT.fullmatch, mount.split("/"))):
        raise ValueError("auth-mount= is not the path of a mount")
    match ways[0]:
        case "token-file":
            return TokenFile(_file(options["token-file"]))
        case "role-id":
            secret_id = _file(options["secret-id-file"])
            return AppRole(options["role-id"], secret_id, mount or "approle")
        case _:
            jwt = _file(options.get("jwt-file", str(SERVICE_ACCOUNT)))
            return Kubernetes(options["kubernetes-role"], jwt, mount or "kubernetes")


def _file(text: str) -> Path:
    """Return a file, or a credential of the service manager: `credential:NAME`."""
    if text.startswith(CREDENTIAL):
        return credential_file(text)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not the absolute path of a file")
    return Path(text)


def _timeout(text: str | None) -> float:
    if text is None:
        return DEFAULT_TIMEOUT_S
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_TIMEOUT_S):
        raise ValueError(f"timeout= must be a number of seconds from 1 to {MAX_TIMEOUT_S:.0f}")
    return float(text)

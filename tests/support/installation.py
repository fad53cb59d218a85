"""An installation in order, which tests break: settings, TLS files, keys, administrators, data."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from verdictd_py.storage.layout import prepare
from verdictd_py.tees.registry import known_tees

NOW: Final = datetime.now(UTC)
PINNED: Final = "ab" * 48

UNIT: Final = """\
[Service]
Type=notify
ExecStart=/usr/bin/verdictd-py --config /etc/verdictd-py/config.toml
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6
RestrictAddressFamilies=AF_UNIX AF_NETLINK
"""

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private(key: Key) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public(key: Key) -> bytes:
    """Return a public key as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str] = ("127.0.0.1",),
    start: timedelta = timedelta(days=-1),
    days: float = 365,
    ca: bool = False,
) -> bytes:
    """Return a self-signed certificate as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + start)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        sans = [x509.IPAddress(ip_address(one)) for one in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def free_ports(number: int) -> list[int]:
    """Return different ports that no process uses now."""
    with ExitStack() as opened:
        bound = [opened.enter_context(socket.socket()) for _ in range(number)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in bound]


@dataclass
class Installation:
    """Files of an installation below a directory, and its settings."""

    root: Path
    key: ec.EllipticCurvePrivateKey
    token_key: ec.EllipticCurvePrivateKey
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path) -> Installation:
        """Write an installation in order."""
        key, token_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        made = cls(root, key, token_key)
        made.write("tls.crt", certificate(made.key))
        made.write("tls.key", private(made.key))
        made.write("ca.crt", certificate(made.key, ca=True))
        made.write("roles.toml", b'[roles]\n"ops.example" = "operator"\n')
        made.write("kbs.crt", certificate(made.key))
        made.write("kbs.key", private(made.key))
        made.write("token.key", private(made.token_key))
        admin = ed25519.Ed25519PrivateKey.generate()
        made.write("admin.pem", public(admin))
        made.write(
            "admins.toml",
            b'[[key]]\nname = "ops"\npublic_key = "admin.pem"\nroles = ["admin"]\n',
        )
        made.write("audit.key", private(ed25519.Ed25519PrivateKey.generate()))
        made.write("verdictd-py.service", UNIT.encode())
        tees = known_tees()
        prepare(root / "data", [tee.documents for tee in tees if tee.proves])
        data = root / "data" / "opa" / "tdxData"
        values = json.loads(data.read_text())
        for name, value in values.items():
            if value == []:
                values[name] = [PINNED]
        data.write_text(json.dumps(values))
        listen, client_api, kbs_http = free_ports(3)
        made.settings = {
            "listen": f"127.0.0.1:{listen}",
            "client_api": f"127.0.0.1:{client_api}",
            "client_api_cert": str(root / "tls.crt"),
            "client_api_key": str(root / "tls.key"),
            "client_api_ca": str(root / "ca.crt"),
            "client_api_roles": str(root / "roles.toml"),
            "kbs_http": f"127.0.0.1:{kbs_http}",
            "kbs_tls_cert": str(root / "kbs.crt"),
            "kbs_tls_key": str(root / "kbs.key"),
            "kbs_token_key": str(root / "token.key"),
            "kbs_admins": str(root / "admins.toml"),
            "audit_key": str(root / "audit.key"),
            "data_dir": str(root / "data"),
            "collateral_url": [],
            "verifier": ["tdx"],
        }
        return made

    def write(self, name: str, content: bytes, *, mode: int = 0o600) -> Path:
        """Write a file of the installation."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
        return file

    def configure(self) -> Path:
        """Write the settings."""
        lines = [f"{name} = {_toml(value)}" for name, value in self.settings.items()]
        return self.write("config.toml", "\n".join((*lines, "")).encode())


def _toml(value: object) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)

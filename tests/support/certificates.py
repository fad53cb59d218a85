"""A CA for the client API, a broker's certificate under it, and roles by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme

ROLES = '[roles]\nfarm = "wrap"\nops = "operator"\n"boss.example" = "admin"\n'


@dataclass
class Certificates:
    """A CA, a broker's certificate, and the files that name them to the broker."""

    ca: trustme.CA
    settings: dict[str, Any]

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        ca = trustme.CA()
        ours = ca.issue_cert("127.0.0.1")
        settings: dict[str, Any] = {
            f"client_api_{name}": directory / name for name in ("cert", "key", "ca", "roles")
        }
        settings["client_api_cert"].write_bytes(ours.cert_chain_pems[0].bytes())
        settings["client_api_key"].write_bytes(ours.private_key_pem.bytes())
        settings["client_api_ca"].write_bytes(ca.cert_pem.bytes())
        settings["client_api_roles"].write_text(ROLES)
        return cls(ca, settings)

    def credentials(self, certificate: trustme.LeafCert | None) -> grpc.ChannelCredentials:
        if certificate is None:
            return grpc.ssl_channel_credentials(self.ca.cert_pem.bytes())
        return grpc.ssl_channel_credentials(
            self.ca.cert_pem.bytes(),
            certificate.private_key_pem.bytes(),
            certificate.cert_chain_pems[0].bytes(),
        )

"""A certificate authority of tools, and one certificate for 127.0.0.1 and localhost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Files of the authority's certificate, the servers' chain, and its private key."""

    authority: Path
    chain: Path
    key: Path

    @classmethod
    def below(cls, directory: Path) -> Certificates:
        """Return those of a directory; they are made if they do not exist."""
        directory.mkdir(parents=True, exist_ok=True)
        files = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        if not files.key.exists():
            authority = trustme.CA()
            server = authority.issue_cert("127.0.0.1", "localhost")
            authority.cert_pem.write_to_path(files.authority)
            files.chain.write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
            files.key.touch(mode=0o600)
            files.key.write_bytes(server.private_key_pem.bytes())
        return files

"""The `openssl` command line as a TLS client, which shares no code with this project."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import RunningBroker
from verdictd_py.protocols.ratstls.issue import Form, issue

OPENSSL = shutil.which("openssl")


class Client:
    """One `openssl s_client`, typed to and read from."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output = b""

    @classmethod
    async def connect(cls, broker: RunningBroker, *options: str) -> Client:
        host, port = broker.address
        command = [str(OPENSSL), "s_client", "-connect", f"{host}:{port}", *options]
        pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=joined
        )
        return cls(process)

    async def until(self, text: bytes) -> None:
        """Reads until `text` was printed."""
        assert self._process.stdout is not None
        while text not in self.output:
            chunk = await self._process.stdout.read(4096)
            assert chunk, f"ended without {text!r}: {self.output!r}"
            self.output += chunk

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    async def ended(self) -> bytes:
        """Everything it printed, once it has ended by itself.

        Not `communicate`: it ends standard input first, and s_client would end with it.
        """
        assert self._process.stdout is not None
        self.output += await self._process.stdout.read()
        await self._process.wait()
        return self.output


def write_credentials(broker: RunningBroker, directory: Path, form: Form) -> list[str]:
    """Certificate and key as files; the options that name them."""
    key = ec.generate_private_key(ec.SECP256R1())
    quote_for = None if form is Form.NULL else broker.attester().quote
    der = issue(form, key=key, quote_for=quote_for, now=broker.now)
    certificate = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (directory / "cert.pem").write_bytes(certificate)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(private)
    return ["-cert", f"{directory}/cert.pem", "-key", f"{directory}/key.pem"]

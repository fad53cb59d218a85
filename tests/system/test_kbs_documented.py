"""The commands about certificates in docs/http-guests.md, run as documented."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.support.command import port_of
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.rcar_guests import attested, tdx_guest


async def said_by(*command: str) -> str:
    """Run openssl and return its standard output."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", *command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_the_self_signed_certificate_is_fetched_as_documented_and_matches_the_log(
    tmp_path: Path,
) -> None:
    """docs/http-guests.md, "Without a certificate authority"."""
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        shown = await said_by("s_client", "-connect", f"127.0.0.1:{port_of(url_of(broker))}")
        begin, end = shown.index("-----BEGIN"), shown.index("-----END")
        fetched = tmp_path / "broker.pem"
        fetched.write_text(shown[begin:end] + "-----END CERTIFICATE-----\n")
        told = await said_by("x509", "-in", str(fetched), "-noout", "-fingerprint", "-sha256")
        (logged,) = broker.events.named("kbs.self-signed")
        assert told.partition("=")[2].strip() == logged["sha256"]
        url = f"https://127.0.0.1:{port_of(url_of(broker))}"
        async with attested(url, tdx_guest(broker.platform), ca=fetched) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET


async def test_a_certificate_made_as_documented_is_accepted_by_guests(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "http-guests.md").read_text()
    begin = text.index("openssl req -x509")
    command = text[begin : text.index("```", begin)].replace("\\\n", " ").split()
    paths = {name: str(tmp_path / name) for name in ("broker.key", "broker.pem")}
    words = [paths.get(word, word).replace("192.0.2.7", "127.0.0.1") for word in command]
    await said_by(*words[1:])
    made = x509.load_pem_x509_certificate(Path(paths["broker.pem"]).read_bytes())
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    files: dict[str, Any] = {
        "kbs_tls_cert": paths["broker.pem"],
        "kbs_tls_key": paths["broker.key"],
    }
    async with running_kbs(tmp_path, **files) as broker:
        assert not broker.events.named("kbs.self-signed")
        ca = Path(paths["broker.pem"])
        async with attested(url_of(broker), tdx_guest(broker.platform), ca=ca) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET

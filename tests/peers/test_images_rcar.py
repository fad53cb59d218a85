"""An image keyed by `keyid=kbs:///...` opens on a guest that gets the key by RCAR.

ocicrypt's own code encrypts with this broker's key provider, then asks the guest's agent.
The KBS is a stand-in: the image opens with the keys of any.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment
from tests.guest.stand_in import standing_in
from tests.peers import oci
from tests.peers.clients import ImageCopier, image_copier

PROVIDER = "provider:attestation-agent"
RUN_SECONDS = 30


@pytest.fixture(params=["skopeo", "ocicopy"])
def copier(request: pytest.FixtureRequest) -> ImageCopier:
    return image_copier(request.param)


async def run(command: list[str], config: Path, provider: dict[str, object]) -> tuple[int, str]:
    """Runs `command` with that key provider; status and what it printed."""
    config.write_text(json.dumps({"key-providers": {"attestation-agent": provider}}))
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "OCICRYPT_KEYPROVIDER_CONFIG": str(config)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(RUN_SECONDS):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
async def test_an_image_opens_with_the_key_of_a_kbs(
    copier: ImageCopier, tmp_path: Path, algorithm: str
) -> None:
    image, encrypted, opened = (tmp_path / name for name in ("image", "encrypted", "opened"))
    oci.write_image(image, "first layer", "second layer")
    config = tmp_path / "keyprovider.conf"
    owner = ["-m", "verdictd_py.cli.main", "keyprovider", "--data-dir", str(tmp_path / "data")]
    parameter = f"{PROVIDER}:keyid=kbs:///default/key/1::algorithm={algorithm}"
    (tmp_path / "data").mkdir(mode=0o700)
    status, output = await run(
        copier.copy(image, encrypted, "--encryption-key", parameter),
        config,
        {"cmd": {"path": sys.executable, "args": owner}},
    )
    assert status == 0, output

    kek = (tmp_path / "data/keys/default/key/1").read_bytes()
    with standing_in(default__key__1=kek) as kbs:
        agent = await asyncio.create_subprocess_exec(
            *(*COMMAND, "guest", "--protocol", "rcar", "--connect", kbs.url, "--allow-a256ctr"),
            *("--platform", str(tmp_path / "platform"), "agent", "--keyprovider", "127.0.0.1:0"),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        assert agent.stdout is not None
        try:
            async with asyncio.timeout(RUN_SECONDS):
                target = (await agent.stdout.readline()).decode().split()[-1]
            status, output = await run(
                copier.copy(encrypted, opened, "--decryption-key", PROVIDER),
                config,
                {"grpc": target},
            )
        finally:
            agent.send_signal(signal.SIGTERM)
            await agent.communicate()
    assert status == 0, output
    for before, after in zip(oci.layers(image), oci.layers(opened), strict=True):
        assert oci.blob(opened, after["digest"]) == oci.blob(image, before["digest"])
    assert [path for method, path, _ in kbs.asked if method == "GET"] == [
        "resource/default/key/1"
    ] * len(oci.layers(image)) * 2  # each is refused once, and asked for again on evidence

"""Who acts in the guide: the image's owner with cosign and a broker, the guest with an agent."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.clients import ImageCopier, program
from tests.support.command import COMMAND, environment

SECONDS = 120


@dataclass(frozen=True)
class Owner:
    """What the image's owner has made, and where the guest finds it.

    Attributes:
        image: `docker://...`, encrypted and signed.
        plain: the layout that was encrypted.
    """

    copier: ImageCopier
    base: Path
    broker: str
    client_api: str
    image: str
    plain: Path

    @property
    def data(self) -> Path:
        return self.base / "data"

    def verdict(self, *words: str) -> None:
        run("-m", "verdictd_py.cli.verdict", "-c", self.client_api, *words)

    def audited(self, event: str) -> list[dict[str, Any]]:
        """The fields of each such event in the broker's audit trail."""
        trail = (file.read_text() for file in (self.data / "audit").glob("*.jsonl"))
        records = [json.loads(line) for text in trail for line in text.splitlines()]
        return [record["fields"] for record in records if record["event"] == event]

    def opened_layers(self) -> int:
        """How many layer keys the broker has opened for guests."""
        return sum(fields["what"] == "image-key" for fields in self.audited("secret.released"))

    def guest(self, *words: str) -> list[str]:
        platform = ("--platform", str(self.base / "platform"))
        return [*COMMAND, "guest", "--connect", self.broker, *platform, *words]


def run(*words: str | Path, command: bool = True, **more: str) -> bytes:
    """Runs one command of ours (by module) or any other, which must end well."""
    program_words = [COMMAND[0], *words] if command else [*words]
    ended = subprocess.run(
        program_words,
        capture_output=True,
        env={**environment(), **more},
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended
    return ended.stdout


def key_providers(file: Path, address: str) -> dict[str, str]:
    """The environment that tells ocicrypt where its key provider is."""
    file.write_text(json.dumps({"key-providers": {"attestation-agent": {"grpc": address}}}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(file)}


def cosign_pair(directory: Path) -> Path:
    """A key pair; the directory with cosign.key and cosign.pub."""
    directory.mkdir()
    subprocess.run(
        [program("cosign"), "generate-key-pair"],
        cwd=directory,
        env={**os.environ, "COSIGN_PASSWORD": ""},
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    return directory


def guides_policy(registry: str, key: Path) -> bytes:
    """The guide's image policy, adjusted (docs/guide.md says why): the two leading spaces and the
    slash at the scope's end taken away; scope and key path of this machine; `matchRepository`,
    because cosign signs the repository's name without the tag."""
    signed = {
        "type": "sigstoreSigned",
        "keyPath": str(key),
        "signedIdentity": {"type": "matchRepository"},
    }
    policy = {
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {f"{registry}/test": [signed]}},
    }
    return json.dumps(policy).encode()


@contextmanager
def agent(owner: Owner, *, debug: bool) -> Iterator[str]:
    """The address of the guest's agent."""
    words = owner.guest("agent", "--keyprovider", "127.0.0.1:0")
    if debug:
        platform = str(owner.base / "platform")
        words = [COMMAND[0], "-m", "tests.peers.debug_guest", owner.broker, platform]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment())
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def open_image(
    owner: Owner, directory: Path, image: str | None = None, *, debug: bool = False
) -> subprocess.CompletedProcess[str]:
    """What a guest does with an image, with the policy and key that lie in `base/guest`.

    Args:
        image: another than the owner's.
        debug: the guest is a TD under debug.
    """
    guest = owner.base / "guest"
    signatures = directory / "registries.d"
    signatures.mkdir()
    scope = owner.image.removeprefix("docker://").partition("/")[0]
    (signatures / "local.yaml").write_text(
        f"docker:\n    {scope}:\n        use-sigstore-attachments: true\n"
    )
    with agent(owner, debug=debug) as address:
        return subprocess.run(
            owner.copier.transfer(
                image or owner.image,
                f"oci:{directory / 'opened'}",
                "--decryption-key=provider:attestation-agent",
                "--remove-signatures",
                policy=guest / "policy.json",
                signatures=signatures,
            ),
            env={**environment(), **key_providers(directory / "guest.conf", address)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def ask(owner: Owner, word: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        owner.guest(word), capture_output=True, env=environment(), timeout=SECONDS, check=False
    )


def fetch(owner: Owner) -> None:
    """Policy and cosign key through attestation, to where the policy names them."""
    guest = owner.base / "guest"
    guest.mkdir(exist_ok=True)
    for word, name in (("policy", "policy.json"), ("cosign-key", "cosign.pub")):
        ended = ask(owner, word)
        assert ended.returncode == 0, ended
        (guest / name).write_bytes(ended.stdout)

"""Store of resources: files behind aliases, and content that is never served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from tests.support.tees import PROVING
from verdictd_py.domain.events import FileChanged
from verdictd_py.domain.names import LEGACY_RESOURCES, ResourcePath, parse_resource_name
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, RequestError, StorageError
from verdictd_py.ports import Kind
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryResourceStore

FILES = {
    "Policy": "image/policy.json",
    "Sigstore Config": "image/sigstore.yaml",
    "Cosign Key": "image/cosign.key",
    "Credential": "image/auth.json",
    "GPG Keyring": "gpg/keyring.gpg",
}
PLAIN = ResourcePath.parse("repo/type/tag")
COSIGN = LEGACY_RESOURCES["Cosign Key"]
TEAM_A = ResourcePath.parse("default/cosign-public-key/team-a")
KEYRING = LEGACY_RESOURCES["GPG Keyring"]
KEYBOX = b"\0\0\0\x20\x01\x01\0\x02KBXf\0\0\0\0"  # first bytes of gpg 2's pubring.kbx


def private_key(label: str) -> bytes:
    """Return PEM with this label, after a text as openssl writes it."""
    return f"Bag Attributes\n-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n".encode()


def warnings_of(data: Path) -> tuple[str, ...]:
    _, inspection = prepare(data, PROVING)
    return inspection.warnings


@pytest.mark.parametrize("content", [b"x", b"\n", b"\0\xff\n\n", b"s" * 300_000])
async def test_a_resource_is_returned_unchanged(
    resources: DirectoryResourceStore, data: Path, content: bytes
) -> None:
    with pytest.raises(NotFound, match="there is no resource repo/type/tag"):
        await resources.get(PLAIN)
    stored = await resources.put(PLAIN, SecretBytes(content))
    found = await resources.get(PLAIN)
    assert found == stored
    assert (found.kind, found.path) == (Kind.RESOURCE, "resources/repo/type/tag")
    assert found.content.reveal() == content
    file = data / "resources" / "repo" / "type" / "tag"
    assert file.stat().st_mode & 0o777 == 0o600
    await resources.put(PLAIN, SecretBytes(b"new"))
    assert file.read_bytes() == b"new"
    await resources.delete(PLAIN)
    with pytest.raises(NotFound, match="there is no resource"):
        await resources.delete(PLAIN)


@pytest.mark.parametrize("name", FILES)
async def test_an_alias_reads_and_writes_its_file(
    resources: DirectoryResourceStore, data: Path, events: RecordedEvents, name: str
) -> None:
    file = data / FILES[name]
    path = parse_resource_name(name)
    assert ResourcePath.parse(str(path)) == path
    file.write_bytes(b"by hand")
    found = await resources.get(path)
    assert (found.kind, found.path) == (Kind.IMAGE, FILES[name])
    assert found.content.reveal() == b"by hand"
    assert await resources.put(path, SecretBytes(b"set")) == await resources.get(path)
    assert file.read_bytes() == b"set"
    assert list((data / "resources").iterdir()) == []
    await resources.delete(path)
    assert not file.exists()
    with pytest.raises(NotFound):
        await resources.get(path)
    assert {type(event) for event in events.events} <= {FileChanged}


@pytest.mark.parametrize("name", FILES)
async def test_a_resource_takes_precedence_over_the_alias_and_is_reported(
    resources: DirectoryResourceStore, data: Path, events: RecordedEvents, name: str
) -> None:
    """It is reported at start and at every write to the file behind the alias."""
    path = parse_resource_name(name)
    own = data.joinpath("resources", *path.segments)
    own.parent.mkdir(parents=True)
    own.write_bytes(b'{"wins": 1}')
    own.chmod(0o600)
    (data / FILES[name]).write_bytes(b'{"hidden": 1}')
    (data / FILES[name]).chmod(0o600)

    found = await resources.get(path)
    assert (found.kind, found.path) == (Kind.RESOURCE, f"resources/{path}")
    assert found.content.reveal() == b'{"wins": 1}'
    assert warnings_of(data) == (f"resources/{path} is served instead of {FILES[name]}",)
    for number in range(1, 3):
        await resources.put(path, SecretBytes(b'{"hidden": 2}'))
        assert (
            events.named("warning.shadowed")
            == [{"resource": str(path), "by": f"resources/{path}"}] * number
        )
    assert (await resources.get(path)).content.reveal() == b'{"wins": 1}'
    await resources.delete(path)
    assert own.exists()
    assert not (data / FILES[name]).exists()


async def test_an_empty_resource_is_refused(resources: DirectoryResourceStore, data: Path) -> None:
    """The client of guests disconnects at a size of 0 (wire-eaa.md)."""
    before = (data / "image" / "policy.json").read_bytes()
    for path in (PLAIN, LEGACY_RESOURCES["Policy"]):
        with pytest.raises(RequestError, match="empty"):
            await resources.put(path, SecretBytes(b""))
    assert (data / "image" / "policy.json").read_bytes() == before
    assert list((data / "resources").iterdir()) == []


@pytest.mark.parametrize(
    "label",
    [
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "ENCRYPTED COSIGN PRIVATE KEY",
        "ENCRYPTED SIGSTORE PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ],
)
@pytest.mark.parametrize(
    ("path", "file"),
    [
        (COSIGN, "image/cosign.key"),
        (COSIGN, f"resources/{COSIGN}"),
        (TEAM_A, f"resources/{TEAM_A}"),
    ],
    ids=str,
)
async def test_a_private_key_is_never_served_as_a_cosign_key(
    resources: DirectoryResourceStore, data: Path, label: str, path: ResourcePath, file: str
) -> None:
    """The type in the path decides, not the tag."""
    content = private_key(label)
    remedy = "it contains a private key; store the public one"
    with pytest.raises(RequestError, match=f"{path} is refused: {remedy}"):
        await resources.put(path, SecretBytes(content))
    assert not (data / file).exists()

    (data / file).parent.mkdir(parents=True, exist_ok=True)
    (data / file).write_bytes(content)
    (data / file).chmod(0o600)
    for call in (resources.get(path), resources.inspect(path)):
        with pytest.raises(StorageError, match=f"is not served: {remedy}") as refused:
            await call
        assert "AAAA" not in str(refused.value)
    (listed,) = (stored for stored in await resources.page("", 9) if stored.name == str(path))
    assert listed.problem.startswith(remedy)


async def test_a_public_cosign_key_is_served(resources: DirectoryResourceStore) -> None:
    content = SecretBytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    await resources.put(COSIGN, content)
    assert (await resources.get(COSIGN)).content == content


async def test_private_keys_may_be_resources_with_other_names(
    resources: DirectoryResourceStore,
) -> None:
    content = SecretBytes(private_key("PRIVATE KEY"))
    await resources.put(PLAIN, content)
    assert (await resources.get(PLAIN)).content == content


async def test_a_keybox_is_refused_with_the_remedy(
    resources: DirectoryResourceStore, data: Path
) -> None:
    """Guests cannot parse the keybox of gpg 2, which an upstream directory may contain."""
    with pytest.raises(RequestError, match=r"keybox, .*gpg --export"):
        await resources.put(KEYRING, SecretBytes(KEYBOX))
    (data / "gpg" / "keyring.gpg").write_bytes(KEYBOX)
    (data / "gpg" / "keyring.gpg").chmod(0o600)
    with pytest.raises(StorageError, match=r"is not served: .*keybox, .*gpg --export"):
        await resources.get(KEYRING)
    binary = SecretBytes(b"\x99\x01\x0d\x04" + bytes(100))  # an OpenPGP public key packet
    await resources.put(KEYRING, binary)
    assert (await resources.get(KEYRING)).content == binary


@pytest.mark.parametrize("first", [b"\x95\x01\xd8", b"\xc5\xc0\x00"])
async def test_a_keyring_with_a_secret_key_is_refused(
    resources: DirectoryResourceStore, data: Path, first: bytes
) -> None:
    """gpg --export-secret-keys writes it, in the older or the newer format of packets."""
    with pytest.raises(RequestError, match="contains a secret key"):
        await resources.put(KEYRING, SecretBytes(first + bytes(100)))
    (data / "gpg" / "keyring.gpg").write_bytes(first + bytes(100))
    with pytest.raises(StorageError, match="is not served: it contains a secret key"):
        await resources.get(KEYRING)


async def test_links_are_not_followed(
    resources: DirectoryResourceStore, data: Path, tmp_path: Path
) -> None:
    """defects.md 1."""
    (tmp_path / "shadow").write_bytes(b"secret of the host")
    (data / "image" / "auth.json").symlink_to(tmp_path / "shadow")
    (data / "resources" / "repo").symlink_to(tmp_path)
    for path in (LEGACY_RESOURCES["Credential"], ResourcePath.parse("repo/x/shadow")):
        with pytest.raises(NotFound):
            await resources.get(path)
    await resources.put(LEGACY_RESOURCES["Credential"], SecretBytes(b"{}"))
    assert (tmp_path / "shadow").read_bytes() == b"secret of the host"


async def test_a_resource_that_is_too_large_is_refused(
    resources: DirectoryResourceStore, data: Path
) -> None:
    with pytest.raises(StorageError, match=r"^the resource repo/type/tag is larger than"):
        await resources.put(PLAIN, SecretBytes(bytes(5_000_000)))
    await resources.put(PLAIN, SecretBytes(b"x"))
    with (data / "resources" / str(PLAIN)).open("r+b") as file:
        file.truncate(5_000_000)
    with pytest.raises(StorageError, match=r"^the resource repo/type/tag is larger than"):
        await resources.get(PLAIN)


async def test_a_directory_with_the_name_of_a_resource_is_reported(
    resources: DirectoryResourceStore,
) -> None:
    """The broker never creates one, because all resources have three segments."""
    await resources.put(PLAIN, SecretBytes(b"x"))
    resources._directory.create(("resources", "file"), b"x")
    with pytest.raises(
        AlreadyExists, match=r"^the resource file/a/b begins with file, which is a file$"
    ):
        await resources.put(ResourcePath.parse("file/a/b"), SecretBytes(b"x"))

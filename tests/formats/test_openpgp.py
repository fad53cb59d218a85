"""OpenPGP keyrings without gpg: imports, exports, lists and refusals."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysequoia import Cert, Tsk
from pysequoia.packet import PacketPile, Tag

from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.formats.openpgp import MAX_CERTIFICATES, MAX_IMPORT_BYTES, SequoiaKeyringEditor

EDITOR = SequoiaKeyringEditor()
ANN_SECRET = Tsk.generate("Ann <ann@example.org>")
ANN: Cert = ANN_SECRET.extract_certificate()
BOB: Cert = Tsk.generate("Bob <bob@example.org>").extract_certificate()
BOTH = EDITOR.add(EDITOR.add(b"", bytes(ANN)), bytes(BOB))

PUBLIC_KEY, PUBLIC_SUBKEY, SECRET_SUBKEY, USER_ID, UNKNOWN = 6, 14, 7, 13, 40  # RFC 9580, 5
VERSION, ALGORITHM = 0, 5  # offsets in a version 4 key packet (RFC 9580, 5.5.2.2)


def packet(tag: int, body: bytes) -> bytes:
    """Return a packet in the new format, with a length of four bytes (RFC 9580, 4.2.1)."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def body_of(data: bytes, tag: Tag) -> bytes:
    return next(bytes(found.body) for found in PacketPile.from_bytes(data) if found.tag == tag)


def changed(body: bytes, offset: int, value: int) -> bytes:
    return body[:offset] + bytes([value]) + body[offset + 1 :]


ANN_KEY = body_of(bytes(ANN), Tag.PublicKey)
ANN_SUBKEY = body_of(bytes(ANN), Tag.PublicSubkey)
ANN_SECRET_SUBKEY = body_of(bytes(ANN_SECRET), Tag.SecretSubkey)
BARE = packet(PUBLIC_KEY, ANN_KEY)  # a certificate that no signature holds together


@pytest.mark.parametrize(
    "given_form",
    [
        bytes(ANN) + bytes(BOB),
        str(ANN).encode() + str(BOB).encode(),
        str(ANN).encode() + b"\n\n" + str(BOB).encode() + b"\n",
        "Grüße,\r\nAnn\r\n".encode() + str(ANN).replace("\n", "\r\n").encode() + str(BOB).encode(),
        "\ufeff".encode() + str(ANN).encode() + str(BOB).rstrip().encode(),
        bytes(ANN) + bytes(ANN) + bytes(BOB),
    ],
    ids=["binary", "armoured", "apart", "a letter", "byte order mark", "twice"],
)
def test_armoured_and_binary_certificates_are_imported(given_form: bytes) -> None:
    assert EDITOR.add(b"", given_form) == BOTH
    assert EDITOR.add(BOTH, given_form) == BOTH  # a second time changes nothing


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n",
        bytes(ANN)[:-9],
        bytes(ANN) + b"junk",
        bytes(BOB) + bytes(ANN)[:-9],
        str(ANN).encode()[:400],
        str(ANN).encode().rstrip()[:-5],
        str(BOB).encode() + str(ANN).encode()[:400],
        bytes(ANN).replace(b"\x16\x21\x04", b"\x16\x21\x00", 1),  # can be read, not written
        bytes(MAX_IMPORT_BYTES + 1),
    ],
)
def test_an_import_with_damaged_data_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        EDITOR.add(BOTH, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(ANN)[:-9], "the data is cut off"),
        (str(ANN).encode().rstrip()[:-1], "the data is cut off"),
        (
            str(ANN).replace("END PGP PUBLIC", "END PGP PRIVATE").encode(),
            "the ASCII armour is damaged",
        ),
        (bytes(ANN) + packet(11, b"b\x00\x00\x00\x00\x00"), "packets other than certificates"),
        (packet(PUBLIC_KEY, changed(ANN_KEY, VERSION, 9)), "unsupported type"),
    ],
)
def test_a_refusal_names_the_cause(content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=f"{said}; give what gpg --export writes"):
        EDITOR.add(b"", content)


@pytest.mark.parametrize(
    "content",
    [
        str(BOB).encode() + bytes(ANN),
        str(BOB).encode().rstrip() + bytes(ANN_SECRET),
        bytes(BOB) + str(ANN_SECRET).encode(),
        b"\xff\n" + str(BOB).encode() + bytes(ANN_SECRET),
    ],
)
def test_binary_data_next_to_armour_is_refused(content: bytes) -> None:
    """The library reads one of the two and ignores the other."""
    with pytest.raises(RequestError, match="binary data next to the armour; give what gpg"):
        EDITOR.add(b"", content)


@pytest.mark.parametrize(
    "content",
    [
        bytes(ANN_SECRET),
        str(ANN_SECRET).encode(),
        bytes(BOB) + bytes(ANN_SECRET),
        str(BOB).encode() + str(ANN_SECRET).encode(),
        str(ANN_SECRET).replace("PRIVATE", "PUBLIC").encode(),
        bytes(ANN) + packet(SECRET_SUBKEY, ANN_SECRET_SUBKEY),
        bytes(ANN) + packet(SECRET_SUBKEY, changed(ANN_SECRET_SUBKEY, ALGORITHM, 200)),
        bytes(ANN) + packet(SECRET_SUBKEY, changed(ANN_SECRET_SUBKEY, VERSION, 9)) + bytes(BOB),
    ],
    ids=[
        *("binary", "armoured", "behind a public one", "armoured behind a public one"),
        *("labelled public", "a subkey", "unknown algorithm", "unknown version"),
    ],
)
def test_secret_keys_are_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(RequestError, match="secret key") as caught:
        EDITOR.add(b"", content)
    assert "BEGIN" not in str(caught.value)
    with pytest.raises(StorageError, match="secret key"):
        EDITOR.describe(content)


@given(st.sampled_from([bytes(ANN), bytes(ANN_SECRET)]), st.data())
def test_no_error_text_contains_bytes_of_a_key(content: bytes, data: st.DataObject) -> None:
    """Some texts of the library do: `7 unused bits not zeroed: (b4)`."""
    offset = data.draw(st.integers(0, len(content) - 1))
    broken = changed(content, offset, data.draw(st.integers(0, 255)))
    with contextlib.suppress(RequestError):
        EDITOR.describe(EDITOR.add(b"", broken))
        return
    with pytest.raises(RequestError) as caught:
        EDITOR.add(b"", broken)
    assert re.fullmatch(r"the certificates are refused: [A-Za-z ,]+; give .*", str(caught.value))


def bare_certificates(count: int) -> list[bytes]:
    """Yield certificates that differ in the time of creation (RFC 9580, 5.5.2.2)."""
    return [
        packet(PUBLIC_KEY, ANN_KEY[:1] + number.to_bytes(4) + ANN_KEY[5:])
        for number in range(count)
    ]


def test_the_size_of_a_keyring_is_limited() -> None:
    made = bare_certificates(MAX_CERTIFICATES + 1)
    full = EDITOR.add(b"", b"".join(made[:-1]))
    assert EDITOR.add(full, made[0]) == full
    with pytest.raises(RequestError, match="at most 1000 certificates"):
        EDITOR.add(full, made[-1])


def spellings(cert: Cert) -> list[str]:
    fingerprint = cert.fingerprint
    return [
        fingerprint,
        fingerprint.upper(),
        "0x" + fingerprint,
        " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4)),
        fingerprint[-16:],
        "0x" + fingerprint[-16:].upper(),
        fingerprint[-16:] + "\n",
    ]


@pytest.mark.parametrize("which", [*spellings(ANN), "ann@example.org", "<Ann@Example.org>"])
def test_a_certificate_is_removed_by_any_of_its_names(which: str) -> None:
    assert EDITOR.remove(BOTH, which) == bytes(BOB)


def test_a_subkey_names_its_certificate() -> None:
    subkeys = [
        found for found in PacketPile.from_bytes(bytes(ANN)) if found.tag == Tag.PublicSubkey
    ]
    assert len(subkeys) == 2
    for subkey in subkeys:
        assert EDITOR.remove(BOTH, subkey.fingerprint) == bytes(BOB)
        assert EDITOR.remove(BOTH, subkey.key_id.upper()) == bytes(BOB)


@pytest.mark.parametrize(
    "which", ["", "@", "example.org", "ann", "00" * 20, "\x00", "Ann", "None", ANN.fingerprint[-8:]]
)
def test_an_unknown_name_is_not_found(which: str) -> None:
    odd = bytes(ANN) + packet(PUBLIC_SUBKEY, changed(ANN_SUBKEY, VERSION, 9))  # has no fingerprint
    with pytest.raises(NotFound):
        EDITOR.remove(odd + bytes(BOB), which)


def test_an_ambiguous_name_is_refused() -> None:
    other = Tsk.generate("Ann at work <ann@example.org>").extract_certificate()
    three = EDITOR.add(BOTH, bytes(other))
    with pytest.raises(RequestError, match=other.fingerprint.upper()):
        EDITOR.remove(three, "ann@example.org")
    assert EDITOR.remove(three, other.fingerprint) == BOTH


def test_a_message_names_a_limited_number_of_certificates() -> None:
    same = packet(USER_ID, b"Ann <ann@example.org>")
    many = EDITOR.add(b"", b"".join(made + same for made in bare_certificates(30)))
    with pytest.raises(RequestError, match=r"several certificates match.* and 10 more$") as caught:
        EDITOR.remove(many, "ann@example.org")
    assert len(re.findall("[0-9A-F]{40}", str(caught.value))) == 20


def test_a_list_has_the_format_of_gpg() -> None:
    lines = EDITOR.describe(BOTH).splitlines()
    assert re.fullmatch(r"pub   EdDSA \d{4}-\d\d-\d\d", lines[0])
    assert lines[1:4] == [f"      {ANN.fingerprint.upper()}", "uid   Ann <ann@example.org>", ""]
    day = 86_400
    short = Tsk.generate("Cleo <c@example.org>", validity_seconds=day).extract_certificate()
    first = EDITOR.describe(bytes(short)).splitlines()[0]
    assert re.fullmatch(r"pub   EdDSA [-\d]{10} \[expires: \d{4}-\d\d-\d\d\]", first)
    assert EDITOR.describe(b"") == ""


def test_a_user_id_cannot_control_the_terminal() -> None:
    odd = Tsk.generate("Eve \x1b[31m\r\npub   EdDSA").extract_certificate()
    listed = EDITOR.describe(bytes(odd))
    assert "\x1b" not in listed
    assert "\r" not in listed
    assert len(listed.splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "uids"),
    [
        (BARE, []),
        (BARE + packet(USER_ID, b"Ann"), ["uid   [unverified] Ann"]),
        (BARE + packet(USER_ID, b"L\xe9on \x1b"), ["uid   [unverified] L\ufffdon \\x1b"]),
    ],
)
def test_a_certificate_without_valid_self_signature_is_marked(
    content: bytes, uids: list[str]
) -> None:
    """The library treats one with SHA-1 alike, and then could not list the whole keyring."""
    lines = EDITOR.describe(EDITOR.add(bytes(BOB), content)).splitlines()
    assert re.fullmatch(r"pub   EdDSA [-\d]{10} \[no valid self-signature\]", lines[4])
    assert lines[5:] == [f"      {ANN.fingerprint.upper()}", *uids]
    assert EDITOR.remove(EDITOR.add(bytes(BOB), content), ANN.fingerprint) == bytes(BOB)


@pytest.mark.parametrize(
    "odd",
    [
        packet(UNKNOWN, b"abc"),
        packet(PUBLIC_SUBKEY, changed(ANN_SUBKEY, VERSION, 9)),
        packet(PUBLIC_SUBKEY, changed(ANN_SUBKEY, ALGORITHM, 200)),
        packet(USER_ID, b"\xff\xfe <ann@example.org>"),
        BARE + packet(USER_ID, b"Anybody"),
    ],
    ids=["tag", "version", "algorithm", "not UTF-8", "name that nobody signed"],
)
def test_packets_unknown_to_the_library_do_not_hide_others(odd: bytes) -> None:
    keyring = EDITOR.add(bytes(BOB), bytes(ANN) + odd)
    assert EDITOR.describe(keyring) == EDITOR.describe(bytes(BOB) + bytes(ANN))
    assert EDITOR.remove(keyring, ANN.fingerprint) == bytes(BOB)


def test_an_unknown_algorithm_is_listed() -> None:
    odd = packet(PUBLIC_KEY, changed(ANN_KEY, ALGORITHM, 200))
    assert EDITOR.describe(EDITOR.add(b"", odd)).startswith("pub   unknown ")


def test_a_later_revocation_is_merged() -> None:
    revoked = bytes(ANN) + bytes(ANN.revoke(ANN_SECRET.certifier()))
    keyring = EDITOR.add(BOTH, revoked)
    first, *_ = EDITOR.describe(keyring).splitlines()
    assert first.endswith(" [revoked]")
    assert EDITOR.add(keyring, bytes(ANN)) == keyring  # and an old copy does not take it back


@pytest.mark.parametrize("stored", [b"KBXf", b"\x00" * 40, bytes(ANN)[:-9]])
def test_an_unreadable_stored_keyring_is_reported(stored: bytes) -> None:
    for ask in (
        lambda: EDITOR.describe(stored),
        lambda: EDITOR.remove(stored, ANN.fingerprint),
        lambda: EDITOR.add(stored, bytes(BOB)),
    ):
        with pytest.raises(StorageError, match="gpg --export"):
            ask()


@given(st.binary(max_size=80), st.integers(0, len(bytes(ANN))))
def test_arbitrary_bytes_are_refused_or_a_certificate(junk: bytes, cut: int) -> None:
    for content in (junk, bytes(ANN)[:cut] + junk):
        try:
            EDITOR.describe(EDITOR.add(b"", content))
        except RequestError:
            continue


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
def test_gpg_reads_an_exported_keyring(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(BOTH)
    shown = subprocess.run(
        ["gpg", "--homedir", tmp_path, "--show-keys", "--with-colons", keyring],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    for cert in (ANN, BOB):
        assert f":{cert.fingerprint.upper()}:" in shown

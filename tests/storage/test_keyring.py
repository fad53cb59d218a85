"""OpenPGP keyrings without gpg: what comes in, what goes out, what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysequoia import Cert, Tsk

from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.storage.keyring import MAX_IMPORT_BYTES, SequoiaKeyringEditor

EDITOR = SequoiaKeyringEditor()
ANN_SECRET = Tsk.generate("Ann <ann@example.org>")
ANN: Cert = ANN_SECRET.extract_certificate()
BOB: Cert = Tsk.generate("Bob <bob@example.org>").extract_certificate()
BOTH = EDITOR.added(EDITOR.added(b"", bytes(ANN)), bytes(BOB))


@pytest.mark.parametrize(
    "given_form",
    [
        bytes(ANN) + bytes(BOB),
        str(ANN).encode() + str(BOB).encode(),
        str(ANN).encode() + b"\n\n" + str(BOB).encode() + b"\n",
        bytes(ANN) + bytes(ANN) + bytes(BOB),
    ],
    ids=["binary", "armoured", "apart", "twice"],
)
def test_certificates_come_in_either_form_and_many_at_once(given_form: bytes) -> None:
    assert EDITOR.added(b"", given_form) == BOTH
    assert EDITOR.added(BOTH, given_form) == BOTH  # a second time changes nothing


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
        bytes(MAX_IMPORT_BYTES + 1),
    ],
)
def test_broken_material_is_refused_whole(content: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        EDITOR.added(BOTH, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        bytes(ANN_SECRET),
        str(ANN_SECRET).encode(),
        bytes(BOB) + bytes(ANN_SECRET),
        str(BOB).encode() + str(ANN_SECRET).encode(),
    ],
    ids=["binary", "armoured", "behind a public one", "armoured behind a public one"],
)
def test_secret_keys_are_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(RequestError, match="secret key") as caught:
        EDITOR.added(b"", content)
    assert "BEGIN" not in str(caught.value)


def spellings(cert: Cert) -> list[str]:
    fingerprint = cert.fingerprint
    return [
        fingerprint,
        fingerprint.upper(),
        "0x" + fingerprint,
        " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4)),
        fingerprint[-16:],
        "0x" + fingerprint[-16:].upper(),
    ]


@pytest.mark.parametrize("which", [*spellings(ANN), "ann@example.org", "<Ann@Example.org>"])
def test_one_is_deleted_by_any_of_its_names(which: str) -> None:
    assert EDITOR.without(BOTH, which) == bytes(BOB)


@pytest.mark.parametrize("which", ["", "@", "example.org", "ann", "00" * 20, "\x00", "Ann"])
def test_who_is_not_there_is_not_deleted(which: str) -> None:
    with pytest.raises(NotFound):
        EDITOR.without(BOTH, which)


def test_who_is_meant_must_be_clear() -> None:
    other = Tsk.generate("Ann at work <ann@example.org>").extract_certificate()
    three = EDITOR.added(BOTH, bytes(other))
    with pytest.raises(RequestError, match=other.fingerprint.upper()):
        EDITOR.without(three, "ann@example.org")
    assert EDITOR.without(three, other.fingerprint) == BOTH


def test_a_list_is_as_gpg_shows_it() -> None:
    lines = EDITOR.listed(BOTH).splitlines()
    assert re.fullmatch(r"pub   EdDSA \d{4}-\d\d-\d\d", lines[0])
    assert lines[1:4] == [f"      {ANN.fingerprint.upper()}", "uid   Ann <ann@example.org>", ""]
    day = 86_400
    short = Tsk.generate("Cleo <c@example.org>", validity_seconds=day).extract_certificate()
    first = EDITOR.listed(bytes(short)).splitlines()[0]
    assert re.fullmatch(r"pub   EdDSA [-\d]{10} \[expires: \d{4}-\d\d-\d\d\]", first)
    assert EDITOR.listed(b"") == ""


def test_a_user_id_cannot_draw_on_the_terminal() -> None:
    odd = Tsk.generate("Eve \x1b[31m\r\npub   EdDSA").extract_certificate()
    listed = EDITOR.listed(bytes(odd))
    assert "\x1b" not in listed
    assert "\r" not in listed
    assert len(listed.splitlines()) == 3


@pytest.mark.parametrize("stored", [b"KBXf", b"\x00" * 40, bytes(ANN)[:-9]])
def test_a_stored_keyring_that_cannot_be_read_is_said(stored: bytes) -> None:
    for ask in (
        lambda: EDITOR.listed(stored),
        lambda: EDITOR.without(stored, ANN.fingerprint),
        lambda: EDITOR.added(stored, bytes(BOB)),
    ):
        with pytest.raises(StorageError, match="gpg --export"):
            ask()


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, len(bytes(ANN))))
def test_whatever_comes_in_is_refused_or_a_certificate(junk: bytes, cut: int) -> None:
    for content in (junk, bytes(ANN)[:cut] + junk):
        try:
            EDITOR.listed(EDITOR.added(b"", content))
        except RequestError:
            continue


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
def test_gpg_reads_what_is_exported(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(BOTH)
    shown = subprocess.run(
        ["gpg", "--homedir", tmp_path, "--show-keys", "--with-colons", keyring],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    for cert in (ANN, BOB):
        assert f":{cert.fingerprint.upper()}:" in shown

"""Archives of backups: what was written is read, and nothing else is."""

from __future__ import annotations

import io
import tarfile

import pytest

from verdictd_py.formats.backup import MANIFEST, BackedUpFile, Backup, BackupDamaged, pack, unpack

FILES = (
    BackedUpFile(("keys", "default", "key", "1"), b"\x00\xff" * 16, 0o600),
    BackedUpFile(("opa", "tdxPolicy.rego"), b"package policy\n", 0o644),
    BackedUpFile(("resources", "a", "b", "c"), b"", 0o600),
)
PACKED = pack(Backup("2026-11-28T00:00:00+00:00", FILES))


def changed(**members: tuple[str, bytes] | None) -> bytes:
    """Return the archive with members replaced; None removes one."""
    output = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(PACKED)) as old,
        tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old.getmembers():
            stream = old.extractfile(member)
            assert stream is not None
            name, content = member.name, stream.read()
            if name in members:
                replacement = members[name]
                if replacement is None:
                    continue
                name, content = replacement
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
        for key, value in members.items():
            if key.startswith("+") and value is not None:
                info = tarfile.TarInfo(value[0])
                info.size = len(value[1])
                new.addfile(info, io.BytesIO(value[1]))
    return output.getvalue()


def test_a_backup_is_read_as_it_was_written() -> None:
    backup = unpack(PACKED)
    assert backup.files == FILES
    assert backup.created == "2026-11-28T00:00:00+00:00"
    assert unpack(changed()) == backup


POLICY = "opa/tdxPolicy.rego"


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (changed(**{POLICY: (POLICY, b"package other.\n")}), "was altered"),
        (changed(**{POLICY: (POLICY, b"")}), "was altered"),
        (changed(**{POLICY: None}), "is missing"),
        (changed(**{"+": ("opa/more", b"x")}), "was added"),
        (changed(**{"+": (POLICY, b"package policy\n")}), "twice"),
        (changed(**{MANIFEST: None}), "another program"),
        (changed(**{MANIFEST: (MANIFEST, b"{}")}), "malformed"),
        (changed(**{MANIFEST: (MANIFEST, b"[")}), "malformed"),
        (PACKED[:600], "incomplete|another"),
        (b"", "not an archive"),
        (b"x" * 5000, "not an archive"),
    ],
)
def test_a_changed_archive_is_refused(packed: bytes, problem: str) -> None:
    with pytest.raises(BackupDamaged, match=problem):
        unpack(packed)


@pytest.mark.parametrize(
    "path",
    [
        ("..", "x"),
        ("opa", ".."),
        ("opa", "..", "..", "etc", "passwd"),
        ("", "etc", "passwd"),
        ("opa",),
        ("audit", "x"),
        ("opa", "a\x00b"),
        ("opa", "x" * 300),
        ("opa", "a", "b", "c", "d"),
    ],
)
def test_no_name_leads_out_of_the_data_directory(path: tuple[str, ...]) -> None:
    with pytest.raises(BackupDamaged, match=r"is not the name|altered|malformed|missing"):
        unpack(pack(Backup("now", (BackedUpFile(path, b"x", 0o600),))))


def test_a_link_is_refused() -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        info = tarfile.TarInfo(MANIFEST)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(BackupDamaged, match="not a regular file"):
        unpack(output.getvalue())


def test_nothing_displays_a_content() -> None:
    assert "package policy" not in repr(unpack(PACKED))

"""The bundle for air-gapped sites: reproducible, and refused once anything in it is altered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.chart import require_helm
from tools.bundle.__main__ import main, revision

KEYS: Final = {
    "ed25519": ("-algorithm", "ed25519"),
    "p256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "rsa": ("-algorithm", "RSA"),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with `NAME.key` and `NAME.pub` of each type, and another `other.pub`."""
    place = tmp_path_factory.mktemp("keys")
    for name, options in {**KEYS, "other": KEYS["ed25519"]}.items():
        private, public = place / f"{name}.key", place / f"{name}.pub"
        openssl("genpkey", *options, "-out", str(private))
        openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return place


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a bundle, unpacked."""
    return unpacked(make(tmp_path_factory.mktemp("signed"), "--key", str(keys / "ed25519.key")))


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(signed, tmp_path / "bundle", symlinks=True))


def openssl(*words: str) -> None:
    subprocess.run(("openssl", *words), check=True, capture_output=True)


def make(place: Path, *options: str) -> Path:
    assert main(["--only", "sbom", "--output", str(place), *options]) == 0
    (archive,) = place.glob("*.tar")
    return archive


def unpacked(archive: Path) -> Path:
    with tarfile.open(archive) as tar:
        # Python 3.11.2 (Debian 12) has no filters.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(archive.parent)  # noqa: S202
    return archive.parent / archive.name.removesuffix("-bundle.tar")


def verify(bundle: Path, key: Path | str) -> tuple[int, str]:
    """Run the script under a POSIX shell that finds openssl and sha256sum, and nothing else."""
    programs = bundle.parent / "programs"
    if not programs.exists():
        programs.mkdir()
        for name in ("openssl", "sha256sum"):
            (programs / name).symlink_to(str(shutil.which(name)))
    shell = shutil.which("dash") or "/bin/sh"
    script = Path(__file__).resolve().parents[2] / "tools" / "bundle" / "verify.sh"
    done = subprocess.run(
        (shell, str(script), str(bundle), str(key)),
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert output.count("\n") == 1, output
    return done.returncode, output


@pytest.mark.parametrize("name", ["ed25519", "p256", "p384"])
def test_a_bundle_is_verified_with_openssl_and_sha256sum_alone(
    keys: Path, tmp_path: Path, name: str
) -> None:
    place = unpacked(make(tmp_path, "--key", str(keys / f"{name}.key")))
    status, output = verify(place, keys / f"{name}.pub")
    assert status == 0
    assert output.startswith("verdictd-py 0.1.0 commit ")
    assert output.endswith(": verified\n")
    assert {file.name for file in place.iterdir()} == {
        *("BUNDLE", "SHA256SUMS", "SHA256SUMS.sig", "sbom", "verify.sh")
    }


@pytest.mark.parametrize("name", ["ed25519", "p256"])
def test_two_runs_give_the_same_bytes(keys: Path, tmp_path: Path, name: str) -> None:
    first, second = (
        make(tmp_path / run, "--key", str(keys / f"{name}.key")).read_bytes() for run in "ab"
    )
    assert first == second


def alter(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda place: (place / file).write_bytes(change((place / file).read_bytes()))


def replace_checksums(place: Path) -> None:
    """What an attacker without the key can do: alter a file and its checksum."""
    (place / "sbom" / "verdictd-py.cdx.json").write_text("{}")
    done = subprocess.run(
        ("sha256sum", "BUNDLE", "sbom/verdictd-py.cdx.json", "verify.sh"),
        cwd=place,
        capture_output=True,
        check=True,
    )
    (place / "SHA256SUMS").write_bytes(done.stdout)


def link(name: str) -> Callable[[Path], None]:
    """Replace a file or a directory by a link to the same content elsewhere."""

    def do(place: Path) -> None:
        (place / name).rename(place.parent / "elsewhere")
        (place / name).symlink_to(place.parent / "elsewhere")

    return do


def pipe(place: Path) -> None:
    (place / "BUNDLE").unlink()
    os.mkfifo(place / "BUNDLE")


ALTERED: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "a byte": (
        alter("sbom/verdictd-py.cdx.json", lambda b: b[:9] + b"!" + b[10:]),
        "sbom/verdictd-py.cdx.json is altered",
    ),
    "a file cut off": (alter("BUNDLE", lambda b: b[:-1]), "BUNDLE is altered"),
    "the script": (alter("verify.sh", lambda b: b"exit 0\n" + b), "verify.sh is altered"),
    "a missing file": (
        lambda place: (place / "sbom" / "verdictd-py.cdx.json").unlink(),
        "sbom/verdictd-py.cdx.json is missing",
    ),
    "a missing directory": (
        lambda place: shutil.rmtree(place / "sbom"),
        "sbom/verdictd-py.cdx.json is missing",
    ),
    "another file": (
        lambda place: (place / "install.sh").write_text(""),
        "install.sh is not in SHA256SUMS",
    ),
    "another file in a directory": (
        lambda place: (place / "sbom" / "x.whl").write_text(""),
        "sbom/x.whl is not in SHA256SUMS",
    ),
    "a hidden file": (
        lambda place: (place / "sbom" / ".x").write_text(""),
        "sbom/.x is not in SHA256SUMS",
    ),
    "another directory": (lambda place: (place / "wheels").mkdir(), "wheels is not in SHA256SUMS"),
    "a directory in a directory": (
        lambda place: (place / "sbom" / "x").mkdir(),
        "sbom/x is not in SHA256SUMS",
    ),
    "a dangling link": (
        lambda place: (place / "*").symlink_to("nowhere"),
        "a file that was not signed, with an unusual name",
    ),
    "a name with a line feed": (
        lambda place: (place / "BUNDLE\nBUNDLE").write_text(""),
        "a file that was not signed, with an unusual name",
    ),
    "a link instead of a file": (link("BUNDLE"), "BUNDLE is a link"),
    "a link instead of a directory": (link("sbom"), "sbom is a link"),
    "a pipe instead of a file": (pipe, "BUNDLE is missing"),
    "checksums": (replace_checksums, "SHA256SUMS was not signed with the key"),
    "an added checksum": (
        alter("SHA256SUMS", lambda b: b + b"0" * 64 + b"  x\n"),
        "SHA256SUMS was not signed with the key",
    ),
    "no checksums": (alter("SHA256SUMS", lambda b: b""), "SHA256SUMS was not signed with the key"),
    "the file of checksums missing": (
        lambda place: (place / "SHA256SUMS").unlink(),
        "the bundle has no SHA256SUMS",
    ),
    "the signature": (
        alter("SHA256SUMS.sig", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        "SHA256SUMS was not signed with the key",
    ),
    "an empty signature": (
        alter("SHA256SUMS.sig", lambda b: b""),
        "SHA256SUMS was not signed with the key",
    ),
    "no signature": (
        lambda place: (place / "SHA256SUMS.sig").unlink(),
        "the bundle has no signature",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_bundle_is_refused(bundle: Path, keys: Path, name: str) -> None:
    change, reason = ALTERED[name]
    assert verify(bundle, keys / "ed25519.pub")[0] == 0
    change(bundle)
    status, output = verify(bundle, keys / "ed25519.pub")
    assert status == 1
    assert output.startswith("verify: refused: ")
    assert reason in output


@pytest.mark.parametrize("name", ["other", "p256", "rsa"])
def test_another_key_is_refused(bundle: Path, keys: Path, name: str) -> None:
    status, output = verify(bundle, keys / f"{name}.pub")
    assert status == 1
    assert "was not signed with the key" in output or "neither an Ed25519" in output


@pytest.mark.parametrize("name", ["absent", "ed25519.key", "text"])
def test_a_file_that_is_no_public_key_is_refused(bundle: Path, keys: Path, name: str) -> None:
    (keys / "text").write_text("text")
    status, output = verify(bundle, keys / name)
    assert status == 1
    assert "is no public key in PEM" in output


def test_a_key_that_comes_with_the_bundle_is_refused(bundle: Path, keys: Path) -> None:
    """The attacker's key, with the attacker's signature."""
    shutil.copy(keys / "other.pub", bundle / "site.pub")
    status, output = verify(bundle, bundle / "site.pub")
    assert status == 1
    assert "is part of the bundle" in output


def test_a_signed_directory_that_is_no_bundle_is_refused(tmp_path: Path, keys: Path) -> None:
    """The same key may have signed other checksums."""
    place = tmp_path / "other"
    place.mkdir()
    (place / "BUNDLE").write_text("another program 1\n")
    digest = subprocess.run(
        ("sha256sum", "BUNDLE"), cwd=place, capture_output=True, check=True
    ).stdout
    (place / "SHA256SUMS").write_bytes(digest)
    command = ("pkeyutl", "-sign", "-inkey", str(keys / "ed25519.key"), "-rawin")
    files = ("-in", str(place / "SHA256SUMS"), "-out", str(place / "SHA256SUMS.sig"))
    openssl(*command, *files)
    status, output = verify(place, keys / "ed25519.pub")
    assert status == 1
    assert "this is no bundle of verdictd-py" in output


def test_without_a_key_there_is_no_signature_and_both_programs_say_so(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = unpacked(make(tmp_path))
    assert "the bundle is NOT SIGNED: --key FILE signs it" in capsys.readouterr().out
    status, output = verify(place, "--unsigned")
    assert (status, output.endswith("checksums match; the SIGNATURE WAS NOT VERIFIED\n")) == (
        0,
        True,
    )
    assert verify(place, keys / "ed25519.pub")[0] == 1
    (place / "BUNDLE").write_text("x")
    assert verify(place, "--unsigned")[0] == 1


@pytest.mark.parametrize("key", ["", "-x"])
def test_wrong_use(bundle: Path, key: str) -> None:
    status, output = verify(bundle, key)
    assert status in {1, 2}
    assert output.startswith("verify: ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("rsa", "neither Ed25519 nor ECDSA"), ("text", "no private key"), ("open", "other users")],
)
def test_an_unusable_private_key_is_refused_with_one_line(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    (keys / "text.key").write_text("text")
    (keys / "text.key").chmod(0o600)
    shutil.copyfile(keys / "ed25519.key", keys / "open.key")
    (keys / "open.key").chmod(0o644)
    options = ["--only", "sbom", "--output", str(tmp_path), "--key", str(keys / f"{name}.key")]
    assert main(options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error
    assert not list(tmp_path.glob("*.tar"))


def test_an_image_of_another_commit_is_no_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image"
    options = ["--only", "image", "--output", str(tmp_path), "--image", str(image)]
    assert main(options) == 1
    assert "has no image; run './dev image'" in capsys.readouterr().err
    image.mkdir()
    (image / "provenance.intoto.json").write_text(
        '{"predicate": {"buildDefinition": {"resolvedDependencies": ['
        '{"uri": "git+file:verdictd-py@0000"}, {"uri": "file:Containerfile"}]}}}'
    )
    assert main(options) == 1
    assert "is of another commit" in capsys.readouterr().err


def test_the_chart_is_what_helm_reads_and_the_same_each_time(tmp_path: Path) -> None:
    helm = require_helm()
    archives = []
    for run in ("a", "b"):
        assert main(["--only", "chart", "--output", str(tmp_path / run)]) == 0
        (archive,) = (tmp_path / run).glob("*.tar")
        archives.append(archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    (chart,) = (unpacked(archives[0]) / "chart").iterdir()
    shown = subprocess.run(
        (helm, "show", "chart", str(chart)), capture_output=True, text=True, check=True
    )
    assert "name: verdictd-py" in shown.stdout


def test_an_image_of_this_commit_is_a_part_unless_it_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    uri = f"git+file:verdictd-py@{revision()}"
    materials = [{"uri": uri, "digest": {"gitCommit": "0000"}}]
    statement = {"predicate": {"buildDefinition": {"resolvedDependencies": materials}}}
    (image / "provenance.intoto.json").write_text(json.dumps(statement))
    (image / "verdictd-py.oci.tar").write_bytes(b"image")
    (image / "note").write_text("not listed, so not copied")
    listed = ("provenance.intoto.json", "verdictd-py.oci.tar")
    sums = subprocess.run(("sha256sum", *listed), cwd=image, capture_output=True, check=True)
    (image / "SHA256SUMS").write_bytes(sums.stdout)
    options = ["--only", "image", "--output", str(tmp_path), "--image", str(image)]
    assert main(options) == 0
    (archive,) = tmp_path.glob("*.tar")
    found = {file.name for file in (unpacked(archive) / "image").iterdir()}
    assert found == {*listed, "SHA256SUMS"}
    (image / "verdictd-py.oci.tar").write_bytes(b"other")
    assert main(options) == 1
    assert "is damaged; run './dev image'" in capsys.readouterr().err

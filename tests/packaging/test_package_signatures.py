"""Packages signed with OpenPGP, verified by rpm and gpg; what they carry apart from wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.chart import ROOT
from tools.packages.stage import stage

NFPM: Final = ROOT / ".cache" / "packages" / "nfpm" / "bin" / "nfpm"
PROGRAMS: Final = ("gpg", "gpgconf", "rpm", "ar", "dpkg-deb")
CONTENT: Final = ("debian-binary", "control.tar.gz", "data.tar.gz")


class Signer:
    """A throw-away key in a home of its own."""

    def __init__(self, home: Path, name: str) -> None:
        home.mkdir(mode=0o700)
        self._environment = {**os.environ, "GNUPGHOME": str(home)}
        self.secret, self.public = home / "secret.asc", home / "public.asc"
        batch = ("--batch", "--quiet", "--passphrase", "", "--quick-gen-key")
        self.gpg(*batch, f"{name} <{name}@localhost>", "rsa3072", "sign", "1d")
        self.secret.write_bytes(self.gpg("--batch", "--armor", "--export-secret-keys").stdout)
        self.secret.chmod(0o600)
        self.public.write_bytes(self.gpg("--armor", "--export").stdout)

    def gpg(self, *words: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ("gpg", *words), input=content, capture_output=True, check=False, env=self._environment
        )

    def end(self) -> None:
        subprocess.run(("gpgconf", "--kill", "all"), check=True, env=self._environment)


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Signer, Signer]]:
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking or not NFPM.is_file():
        names = ", ".join([*lacking, *(() if NFPM.is_file() else ("nfpm (./dev packages)",))])
        assert not os.environ.get("REQUIRE_SIGNED_PACKAGES"), f"missing: {names}"
        pytest.skip(f"missing: {names}")
    place = tmp_path_factory.mktemp("gpg")
    made = (Signer(place / "site", "site"), Signer(place / "other", "other"))
    yield made
    for signer in made:
        signer.end()


@pytest.fixture(scope="module")
def packages(signers: tuple[Signer, Signer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of both packages; in place of 80 MB of wheels there is one file."""
    place = tmp_path_factory.mktemp("packages")
    wheel = place / "verdictd_py-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1790000000")
        config = stage(place / "root", [wheel], "amd64", signers[0].secret, "0.1.0")
    for kind in ("deb", "rpm"):
        command = (str(NFPM), "package", "-f", str(config), "-p", kind, "-t", str(place))
        subprocess.run(command, check=True, capture_output=True)
    return place


def check_deb(package: Path, signer: Signer, place: Path) -> bool:
    """Verify the signature over the members of the archive, as `docs/install/packages.md` says."""
    subprocess.run(("ar", "x", str(package), "_gpgorigin"), cwd=place, check=True)
    content = subprocess.run(("ar", "p", str(package), *CONTENT), check=True, capture_output=True)
    verified = signer.gpg("--verify", str(place / "_gpgorigin"), "-", content=content.stdout)
    return verified.returncode == 0


def check_rpm(package: Path, signer: Signer, place: Path) -> bool:
    """Verify with `rpm -K` and a database that trusts this key alone."""
    rpm = ("rpm", "--dbpath", str(place / "rpmdb"))
    subprocess.run((*rpm, "--import", str(signer.public)), check=True, capture_output=True)
    done = subprocess.run((*rpm, "-K", str(package)), check=False, capture_output=True, text=True)
    assert "digests" in done.stdout.lower()
    return done.returncode == 0 and "signatures OK" in done.stdout


@pytest.mark.parametrize(("kind", "check"), [("deb", check_deb), ("rpm", check_rpm)])
def test_the_signature_is_of_the_site_s_key_and_of_these_bytes(
    signers: tuple[Signer, Signer], packages: Path, tmp_path: Path, kind: str, check: object
) -> None:
    assert callable(check)
    (package,) = packages.glob(f"*.{kind}")
    places = [tmp_path / name for name in ("own", "other", "altered")]
    for place in places:
        place.mkdir()
    assert check(package, signers[0], places[0])
    assert not check(package, signers[1], places[1])
    altered = tmp_path / package.name
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    assert not check(altered, signers[0], places[2])


LISTING: Final = {"deb": ("dpkg-deb", "--contents"), "rpm": ("rpm", "-qpl")}
CARRIED: Final = (
    *(f"/usr/share/man/man1/{name}.1.gz" for name in ("verdictd-py", "verdict-py")),
    *(f"/usr/share/bash-completion/completions/{name}" for name in ("verdictd-py", "verdict-py")),
    "/usr/share/zsh/vendor-completions/_verdict-py",
    "/usr/share/fish/vendor_completions.d/verdict-py.fish",
    "/usr/share/doc/verdictd-py/sbom.cdx.json",
    "/usr/share/doc/verdictd-py/copyright",
    "/usr/lib/systemd/system/verdictd-py.service",
    "/usr/lib/systemd/system/verdictd-py.socket",
    "/usr/lib/sysusers.d/verdictd-py.conf",
    "/usr/lib/tmpfiles.d/verdictd-py.conf",
    "/usr/lib/verdictd-py/setup",
)


@pytest.mark.parametrize("kind", LISTING)
def test_both_packages_have_manuals_completions_units_and_a_bill_of_materials(
    packages: Path, kind: str
) -> None:
    (package,) = packages.glob(f"*.{kind}")
    listed = subprocess.run(
        (*LISTING[kind], str(package)), check=True, capture_output=True, text=True
    )
    names = {line.split()[-1].removeprefix(".") for line in listed.stdout.splitlines()}
    assert set(CARRIED) <= names

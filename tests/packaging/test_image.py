"""The recipe of the image, and the documents about it. `./dev image` builds it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

from tools.image import statements

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = (ROOT / "Containerfile").read_text("utf-8")
DIGEST: Final = "sha256:" + "ab" * 32

STATUS: Final = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12+deb13u1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_the_base_is_named_by_its_digest() -> None:
    (base,) = re.findall(r"^ARG BASE=(.+)$", RECIPE, re.MULTILINE)
    assert re.search(r"@sha256:[0-9a-f]{64}$", base)
    assert set(re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE)) == {"${BASE}", "scratch"}


def test_pip_installs_only_files_with_a_known_digest() -> None:
    commands = [line for line in RECIPE.splitlines() if " install " in line and " pip " in line]
    fetching = [line for line in commands if "--no-index" not in line]
    assert len(commands) == 3
    assert len(fetching) == 2
    for line in fetching:
        assert "--require-hashes" in line
        assert "--only-binary :all:" in line


def test_the_policy_engine_is_compiled_from_the_installed_program() -> None:
    """Without -I it is that of the sources, which no image contains. See containerfile.sh, too."""
    setup = (ROOT / "tools" / "packages" / "files" / "setup").read_text()
    for text in (RECIPE, setup):
        (line,) = (one for one in text.splitlines() if "precompile()" in one)
        assert '/bin/python" -I -c "' in line or "/bin/python -I -c " in line


def test_the_build_backend_has_a_lock() -> None:
    lock = (ROOT / "requirements-build.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirement in project["build-system"]["requires"]:
        name = re.split(r"[<>=~\[; ]", requirement)[0]
        assert re.search(rf"^{name}==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)


def test_what_an_engine_reads() -> None:
    for line in ("USER 10001:10001", "EXPOSE 20002 8443", 'ENTRYPOINT ["verdictd-py"]'):
        assert f"\n{line}\n" in RECIPE
    assert re.search(r"^HEALTHCHECK .* CMD \[\"verdict-py\", ", RECIPE, re.MULTILINE)
    labels = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", RECIPE))
    assert labels >= {"title", "description", "licenses", "version", "revision", "base.name"}


def test_a_bill_of_materials() -> None:
    python = json.loads((ROOT / "sbom.cdx.json").read_text())
    system = list(statements.packages(STATUS, distribution="debian-13"))
    bill = json.loads(statements.bill("verdictd-py:1-amd64", DIGEST, python, system))
    assert bill["metadata"]["component"]["version"] == DIGEST
    purls = [component.get("purl") for component in bill["components"]]
    assert "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13" in purls
    assert not any("gone" in str(purl) for purl in purls)
    assert any(str(purl).startswith("pkg:pypi/cryptography@") for purl in purls)
    known = {c["bom-ref"] for c in (*bill["components"], bill["metadata"]["component"])}
    for dependency in bill["dependencies"]:
        assert dependency["ref"] in known
        assert known.issuperset(dependency.get("dependsOn", ()))
    assert len(known) == len(bill["components"]) + 1


def test_a_provenance_statement() -> None:
    statement = json.loads(
        statements.provenance(
            {"verdictd-py:1-amd64": DIGEST},
            parameters={"arch": "amd64"},
            materials={"file:Containerfile": {"sha256": "cd" * 32}},
            builder="buildah version 1",
        )
    )
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "verdictd-py:1-amd64", "digest": {"sha256": "ab" * 32}}
    ]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [
        {"uri": "file:Containerfile", "digest": {"sha256": "cd" * 32}}
    ]

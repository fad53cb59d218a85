"""Write the software bill of materials of a release: CycloneDX 1.6, JSON.

Usage: sbom.py [check]   `check` only compares, and ends with 1 where they differ.

Components are the packages of `requirements.lock`, with the licences that their metadata state, and
the Rust crates in `engine.wasm` (`verdictd_py/policy/engine.licences.txt`). The result depends on
these files alone: it has no time and no random number. The digests of the packages' files are in
`requirements.lock`. A package with a licence that is not permissive must be named in NOTICE.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from verdictd_py import __version__

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = "sbom.cdx.json"
LOCK: Final = "requirements.lock"
CRATES: Final = "verdictd_py/policy/engine.licences.txt"
NAMESPACE: Final = uuid.UUID("4d0f6a2e-0b2f-5c0e-9a43-6d2f0e7c1a11")
"""Any fixed UUID: the serial number is derived from it and the content."""

PERMISSIVE: Final = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSL-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Unicode-3.0", "Unlicense", "Zlib"),
    }
)

CLAUSES: Final = {"Jinja2": "BSD-3-Clause"}
"""Packages whose metadata say `BSD License` and not which, by the text that they install."""

CONTENTS: Final = {
    "pysequoia": (
        ("sequoia-openpgp", "LGPL-2.0-or-later"),
        ("buffered-reader", "LGPL-2.0-or-later"),
    ),
}
"""Libraries in a package's wheel under another licence than its own, which its metadata omit."""

_PACKAGE: Final = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
_CRATE: Final = re.compile(r"^([\w-]+) (\d\S*): (.+) \((https://\S+)\)$", re.MULTILINE)
_IDENTIFIERS: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "OSI Approved :: MIT License": "MIT",
}
"""Licences in words, as metadata state them -> SPDX."""


class Unknown(Exception):
    """The licence or the version of a package cannot be determined."""


@dataclass(frozen=True)
class Component:
    """A package or crate.

    Attributes:
        kind: `pypi` or `cargo`, the type of its package URL.
        licence: SPDX expression.
        needs: names of the packages that it depends on.
    """

    kind: str
    name: str
    version: str
    licence: str
    needs: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Package URL, which names the component in the document."""
        return f"pkg:{self.kind}/{self.name}@{self.version}"

    def entry(self) -> dict[str, Any]:
        """Return the component as CycloneDX has it."""
        entry: dict[str, Any] = {
            "type": "library",
            "bom-ref": self.url,
            "name": self.name,
            "version": self.version,
            "licenses": [{"expression": self.licence}],
            "purl": self.url,
        }
        if contents := CONTENTS.get(self.name):
            entry["components"] = [
                {"type": "library", "name": name, "licenses": [{"expression": expression}]}
                for name, expression in contents
            ]
        return entry


def packages(lock: str) -> Iterator[Component]:
    """Yield the packages of a lock file; this interpreter must have the same versions installed.

    Raises:
        Unknown: another version is installed, or a licence is stated in unknown words.
    """
    found = [*_PACKAGE.finditer(lock)]
    names = {str(canonicalize_name(match[1])) for match in found}
    for match in found:
        about = metadata.metadata(match[1])
        if about["Version"] != match[2]:
            raise Unknown(f"{match[1]} {about['Version']} is installed, not {match[2]}")
        yield Component(
            "pypi",
            canonicalize_name(match[1]),
            match[2],
            licence(about),
            tuple(sorted(_needs(metadata.requires(match[1]) or (), names))),
        )


def _needs(requirements: Sequence[str], names: set[str]) -> set[str]:
    """Return the locked packages among requirements; those of extras do not count."""
    parsed = [Requirement(text) for text in requirements]
    return {
        name
        for one in parsed
        if not (one.marker and _is_of_an_extra(one.marker))
        if (name := canonicalize_name(one.name)) in names
    }


def _is_of_an_extra(marker: Marker) -> bool:
    return "extra ==" in str(marker)


def licence(about: metadata.PackageMetadata) -> str:
    """Return the SPDX expression of a package's licence.

    Raises:
        Unknown: its metadata have none that is known.
    """
    words = [str(about[name]) for name in ("License-Expression", "License") if about[name]]
    classifiers = [str(one) for one in about.get_all("Classifier") or ()]
    words += [one.removeprefix("License :: ") for one in classifiers if one.startswith("License")]
    if str(about["Name"]) in CLAUSES and words == ["OSI Approved :: BSD License"]:
        return CLAUSES[str(about["Name"])]
    for text in words:
        expression = _IDENTIFIERS.get(text, text)
        if set(identifiers(expression)) <= {*PERMISSIVE, "MPL-2.0"}:
            return expression
    raise Unknown(f"the licence of {about['Name']} is stated as {words}")


def identifiers(expression: str) -> list[str]:
    """Return the licences in an SPDX expression without parentheses."""
    return re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", ""))


def crates(licences: str) -> Iterator[Component]:
    """Yield the crates that are compiled into the policy engine's module."""
    for match in _CRATE.finditer(licences):
        yield Component("cargo", match[1], match[2], match[3])


def not_in_notice(components: Sequence[Component], notice: str) -> Iterator[str]:
    """Yield the licence problems: NOTICE must name each package that is not permissive."""
    for one in components:
        named = re.search(rf"^  {re.escape(one.name)} (.*(?:\n   .*)*)", notice, re.MULTILINE)
        stated = [one.licence, *(text for _, text in CONTENTS.get(one.name, ()))]
        others = {name for text in stated for name in identifiers(text)} - PERMISSIVE
        if others and (named is None or not all(other in named[1] for other in others)):
            yield f"NOTICE does not name {one.name} with {', '.join(sorted(others))}"
    names = {one.name for one in components}
    for name in re.findall(r"^  (\S+) +\S", notice, re.MULTILINE):
        if name not in names:
            yield f"NOTICE names {name}, which is no dependency"


def document(components: Sequence[Component]) -> dict[str, Any]:
    """Return the whole bill of materials."""
    ours = f"pkg:pypi/verdictd-py@{__version__}"
    by_name = {one.name: one.url for one in components if one.kind == "pypi"}
    direct = _needs(metadata.requires("verdictd-py") or (), set(by_name))
    below = [by_name[name] for name in sorted(direct)]
    below += [one.url for one in components if one.kind == "cargo"]
    content: dict[str, Any] = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": "verdictd-py",
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": ours,
            }
        },
        "components": [one.entry() for one in components],
        "dependencies": [
            {"ref": ours, "dependsOn": below},
            *(
                {"ref": one.url, "dependsOn": [by_name[name] for name in one.needs]}
                for one in components
            ),
        ],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }


def main(argv: list[str]) -> int:
    """Write the file, or compare it; return the exit status."""
    components = [
        *packages((ROOT / LOCK).read_text()),
        *crates((ROOT / CRATES).read_text(encoding="utf-8")),
    ]
    problems = [*not_in_notice(components, (ROOT / "NOTICE").read_text())]
    text = json.dumps(document(components), indent=1) + "\n"
    target = ROOT / FILE
    if argv == ["check"]:
        if not target.is_file() or target.read_text() != text:
            problems.append(f"{FILE} is not what {LOCK} gives: ./dev sbom")
    else:
        target.write_text(text)
    for problem in problems:
        print(f"sbom: {problem}", file=sys.stderr)
    if not problems:
        print(f"sbom: {len(components)} components, all licences permissive or in NOTICE")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

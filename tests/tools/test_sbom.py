"""`./dev sbom` lists every locked package and crate, and reports licences that NOTICE omits."""

from __future__ import annotations

import json
import re
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest

from tools.sbom import (
    FILE,
    Component,
    Unknown,
    crates,
    document,
    identifiers,
    licence,
    main,
    not_in_notice,
    packages,
)

ROOT = Path(__file__).parents[2]
NOTICE = "All have permissive licences, except:\n\n  copyleft    LGPL-2.0-or-later, a reason\n"


def about(**fields: str) -> Any:
    message = Message()
    message["Name"] = "example"
    for name, text in fields.items():
        message[name.replace("_", "-")] = text
    return cast("Any", message)


def test_the_committed_file_is_current() -> None:
    assert main(["check"]) == 0


def test_it_has_every_locked_package_and_crate() -> None:
    names = {one["name"] for one in json.loads((ROOT / FILE).read_text())["components"]}
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    compiled = (ROOT / "verdictd_py/policy/engine.licences.txt").read_text().split("=====")[0]
    assert {name.lower() for name in locked} <= names
    assert set(re.findall(r"^([\w-]+) \d", compiled, re.MULTILINE)) <= names


def test_dependencies_name_components_of_the_document() -> None:
    made = json.loads((ROOT / FILE).read_text())
    references = {one["bom-ref"] for one in made["components"]}
    references.add(made["metadata"]["component"]["bom-ref"])
    for one in made["dependencies"]:
        assert {one["ref"], *one["dependsOn"]} <= references
    (ours,) = [one for one in made["dependencies"] if "verdictd-py" in one["ref"]]
    assert any("grpcio@" in url for url in ours["dependsOn"])
    assert any("regorus@" in url for url in ours["dependsOn"])


def test_the_same_input_gives_the_same_document() -> None:
    one = Component("pypi", "a", "1", "MIT")
    assert document([one]) == document([one])
    other = Component("pypi", "a", "2", "MIT")
    assert document([one])["serialNumber"] != document([other])["serialNumber"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "Apache-2.0 OR MIT"}, "Apache-2.0 OR MIT"),
        ({"License": "3-Clause BSD License"}, "BSD-3-Clause"),
        ({"License": "its text", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
    ],
)
def test_the_licence_is_that_of_the_metadata(fields: dict[str, str], expected: str) -> None:
    assert licence(about(**fields)) == expected


@pytest.mark.parametrize("text", ["AGPL-3.0-only", "Free for everyone", ""])
def test_an_unknown_licence_is_an_error(text: str) -> None:
    with pytest.raises(Unknown, match="example"):
        licence(about(License=text))


def test_another_installed_version_than_the_locked_one_is_an_error() -> None:
    with pytest.raises(Unknown, match=r"not 0\.0\.1"):
        list(packages("grpcio==0.0.1 \\\n    --hash=sha256:00\n"))


def test_crates_have_name_version_and_licence() -> None:
    text = "a-b 1.0.5: MIT OR Apache-2.0 (https://example.com/a)\n\n====\n2024 (c)\n"
    assert list(crates(text)) == [Component("cargo", "a-b", "1.0.5", "MIT OR Apache-2.0")]
    found = identifiers("(MIT OR Apache-2.0) AND Unicode-3.0")
    assert found == ["MIT", "Apache-2.0", "Unicode-3.0"]


def test_a_licence_that_is_not_permissive_must_be_in_notice() -> None:
    good, bad = Component("pypi", "copyleft", "1", "LGPL-2.0-or-later"), "MPL-2.0 AND MIT"
    assert list(not_in_notice([good], NOTICE)) == []
    assert list(not_in_notice([good, Component("pypi", "b", "1", bad)], NOTICE)) == [
        "NOTICE does not name b with MPL-2.0"
    ]
    assert list(not_in_notice([Component("pypi", "copyleft", "1", "MPL-2.0")], NOTICE)) == [
        "NOTICE does not name copyleft with MPL-2.0"
    ]


def test_a_package_in_notice_must_be_a_dependency() -> None:
    assert list(not_in_notice([], NOTICE)) == ["NOTICE names copyleft, which is no dependency"]

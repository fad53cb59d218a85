"""The committed test data is complete, and exactly what its tables describe."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.vectors import INPUTS, VECTORS, input_file, vector

TABLE = "SHA256SUMS"


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file below `folder` by relative name, as its table has them."""
    rows = (row.split("  ", 1) for row in (folder / TABLE).read_text().splitlines())
    return {name: digest for digest, name in rows}


@pytest.mark.parametrize("folder", [VECTORS, INPUTS], ids=lambda folder: str(folder.name))
def test_each_file_has_the_digest_of_its_table(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {TABLE, "README.md"}
    }
    assert files == digests(folder)


@pytest.mark.parametrize("folder", [VECTORS, INPUTS], ids=lambda folder: str(folder.name))
def test_each_file_is_named_in_the_readme(folder: Path) -> None:
    """By its path, or by that of a folder, which ends in a slash."""
    text = (folder / "README.md").read_text()
    for name in digests(folder):
        parents = [f"{parent}/" for parent in Path(name).parents]
        assert any(f"`{each}`" in text for each in (name, *parents)), name


def test_a_missing_file_is_an_error_and_no_skip() -> None:
    with pytest.raises(FileNotFoundError, match="tests/vectors/absent is not in the repository"):
        vector("absent")
    with pytest.raises(FileNotFoundError, match="tests/inputs/absent is not in the repository"):
        input_file("absent")

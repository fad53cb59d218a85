"""Store of policies and reference data: files, packaged defaults, and text only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stores import document_store
from tests.support.tees import PROVING, TEES
from verdictd_py.daemon import utc_now
from verdictd_py.domain.names import Name
from verdictd_py.errors import Conflict, NotFound, StorageError
from verdictd_py.packaged import default_file
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import ABSENT, ANY, PolicyDocuments
from verdictd_py.storage.documents import DirectoryDocumentStore
from verdictd_py.storage.layout import prepare

REPOSITORY = Path(__file__).parents[2]
POLICY = Name.parse("tdxPolicy.rego")
DATA = Name.parse("tdxData")


async def deciding(documents: DirectoryDocumentStore, tee: str) -> PolicyDocuments:
    return await DocumentsWithSets(documents, TEES, utc_now).documents(tee)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
async def test_changes_of_the_files_are_effective_at_once(
    documents: DirectoryDocumentStore, data: Path, tee: str
) -> None:
    found = await deciding(documents, tee)
    defaults = TEES.named(tee).documents.defaults()
    assert found.policy == defaults.policy
    assert found.reference == defaults.reference
    texts = ('package policy\nx := data["ü"]\n', '{"ü": 1}')
    for name, text in zip(TEES.named(tee).documents.names, texts, strict=True):
        (data / "opa" / name).write_text(text, encoding="utf-8")
    assert await deciding(documents, tee) == PolicyDocuments(*texts)


@pytest.mark.parametrize("tee", ["snp", "none", ""])
async def test_unknown_tees_have_no_documents(documents: DirectoryDocumentStore, tee: str) -> None:
    for name in (documents.policy_name, documents.reference_name):
        with pytest.raises(NotFound, match=f"there is no policy for {tee}"):
            name(tee)


@pytest.mark.parametrize("missing", TEES.named("tdx").documents.names)
async def test_a_missing_document_is_not_found(
    documents: DirectoryDocumentStore, data: Path, missing: str
) -> None:
    (data / "opa" / missing).unlink()
    with pytest.raises(NotFound, match=f"^opa/{missing} is missing$"):
        await deciding(documents, "tdx")


async def test_a_file_that_is_not_text_is_refused(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    (data / "opa" / "tdxData").write_bytes(b"\xff")
    with pytest.raises(StorageError, match=r"^opa/tdxData is not UTF-8 text$"):
        await deciding(documents, "tdx")
    with (data / "opa" / "tdxData").open("r+b") as file:
        file.truncate(5_000_000)
    with pytest.raises(StorageError, match=r"^opa/tdxData is larger than"):
        await documents.get(DATA)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _link(path: Path) -> None:
    path.parents[2].joinpath("aside").write_text("{}")
    path.symlink_to("../../aside")


@pytest.mark.parametrize("place", [_link, _dangling, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["referenceSets", "releasePolicies", "releaseData", "tdxData"])
async def test_what_is_no_regular_file_is_not_absent(
    documents: DirectoryDocumentStore, data: Path, name: str, place: Callable[[Path], None]
) -> None:
    """Absent sets pin nothing, and absent release policies leave every secret to one policy."""
    path = data / "opa" / name
    path.unlink(missing_ok=True)
    place(path)
    document = Name.parse(name)
    says = rf"^opa/{name} is a directory, a link that .* put a regular file in its place$"
    with pytest.raises(StorageError, match=says):
        await documents.get(document)
    with pytest.raises(StorageError, match=says):
        await documents.snapshot((POLICY, document))
    with pytest.raises(StorageError, match=says):
        await documents.put(POLICY, "x", expected=ANY, unchanged={document: ABSENT})
    with pytest.raises(StorageError, match=says):
        await documents.delete(document, expected=ANY)


async def test_a_link_in_place_of_the_named_sets_refuses(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    (data.parent / "aside").write_text("{}")
    (data / "opa" / "referenceSets").symlink_to("../../aside")
    with pytest.raises(StorageError, match=r"^opa/referenceSets is a .*link that leaves"):
        await deciding(documents, "tdx")


async def test_reference_data_as_large_as_the_policy_reads(
    documents: DirectoryDocumentStore,
) -> None:
    text = json.dumps({"mrTd": ["x" * 4_000_000]})
    await documents.put(DATA, text, expected=ANY)
    assert (await documents.get(DATA)).text == text


async def test_a_document_is_readable_for_its_owner_only(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    await documents.put(POLICY, "package policy\n# ü\n", expected=ANY)
    assert (data / "opa" / "tdxPolicy.rego").stat().st_mode & 0o777 == 0o600


async def test_a_file_edited_by_hand_has_another_revision(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    revision = (await documents.get(POLICY)).revision
    (data / "opa" / "tdxPolicy.rego").write_text("package policy # by hand\n")
    with pytest.raises(Conflict, match=r"^opa/tdxPolicy.rego has changed since it was read"):
        await documents.put(POLICY, "package policy # by API\n", expected=revision)
    assert (await documents.get(POLICY)).text == "package policy # by hand\n"


async def test_only_files_with_a_name_for_documents_are_listed(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    before = await documents.names()
    for odd in ("a b", "team.rego~", ".team.rego"):
        (data / "opa" / odd).write_text("x")
    (data / "opa" / "folder").mkdir()
    (data / "opa" / "folder" / "team.rego").write_text("x")
    assert await documents.names() == before
    (data / "opa" / "team.rego").write_text("x")
    assert await documents.names() == tuple(sorted([*before, Name.parse("team.rego")]))


async def test_a_name_of_three_segments_does_not_follow_links(
    documents: DirectoryDocumentStore, data: Path, tmp_path: Path
) -> None:
    """defects.md 1: every segment is opened separately."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("secret of the host")
    (data / "opa" / "a").symlink_to(tmp_path)
    name = Name.parse("a/b/c")
    with pytest.raises(NotFound):
        await documents.get(name)
    with pytest.raises(StorageError, match=r"^opa/a/b/c begins with a, which is a file$"):
        await documents.put(name, "x", expected=ANY)
    assert (tmp_path / "b" / "c").read_text() == "secret of the host"


def test_the_name_of_a_document_determines_the_tee(documents: DirectoryDocumentStore) -> None:
    for tee in TEES:
        names = [documents.tee_of(Name.parse(name)) for name in tee.documents.names]
        assert names == [tee.name, tee.name]
    assert documents.tee_of(Name.parse("mine.rego")) is None
    assert documents.tee_of(Name.parse("opa/x/tdxData")) is None


@pytest.mark.parametrize("folder", ["policies", "keys"])
def test_defaults_of_a_checkout_are_its_files(folder: str) -> None:
    for file in (REPOSITORY / folder).iterdir():
        assert default_file(f"{folder}/{file.name}") == file.read_bytes()
    with pytest.raises(FileNotFoundError):
        default_file(f"{folder}/none")


def test_the_example_key_is_that_of_the_guide() -> None:
    key = default_file("keys/84688df7-2c0c-40fa-956b-29d8e74d16c0")
    assert key == b"1234567890123456789012345678901\n"


async def test_sample_guests_have_documents_only_if_they_are_allowed(tmp_path: Path) -> None:
    directory, _ = prepare(tmp_path / "without", PROVING)
    with pytest.raises(NotFound):
        await deciding(document_store(directory), "sample")
    directory, _ = prepare(tmp_path / "with", [tee.documents for tee in TEES])
    found = await deciding(document_store(directory), "sample")
    assert found.reference == TEES.named("sample").documents.defaults().reference

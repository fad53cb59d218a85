"""Selection of verifiers by name: built-in ones, aliases, plug-ins, nullverifier."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import NoReturn

import pytest

from tests.support.tees import context
from tests.support.verifiers import verified_by
from tests.tees.support import NOW, Source, good_collateral, good_quote, run, tdx_evidence
from tests.tees.toy import ToyVerifier
from verdictd_py.errors import ConfigError, QuoteInvalid
from verdictd_py.ports import VerifierContext
from verdictd_py.tees import registry
from verdictd_py.tees.registry import NullVerifier, VerifierSet, known_tees
from verdictd_py.tees.sgx.verifier import SgxVerifier
from verdictd_py.tees.tdx.verifier import TdxVerifier

CONTEXT = context(Source(good_collateral()))


def select(
    names: list[str] | None, given: VerifierContext, *, insecure_nullverifier: bool = False
) -> VerifierSet:
    return registry.select(
        names, known_tees(names), given, insecure_nullverifier=insecure_nullverifier
    )


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install entry points of packages with valid and invalid TEEs."""
    points = EntryPoints(
        EntryPoint(name, value, registry.ENTRY_POINT_GROUP)
        for name, value in {
            "toy": "tests.tees.toy:TEE",
            "tdx": "tests.tees.toy:TEE",
            "tdx_ecdsa": "tests.tees.toy:TEE",
            "nullverifier": "tests.tees.toy:TEE",
            "wrong": "tests.tees.toy:WRONG",
            "thief": "tests.tees.toy:THIEF",
            "twin": "tests.tees.toy:TWIN",
            "renamed": "tests.tees.toy:TEE",
            "gone": "tests.tees.no_such_module:make",
            "nameless": "tests.tees.toy:no_such_function",
            "nothing": "tests.tees.toy:ToyVerifier",
        }.items()
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def test_default_is_every_real_built_in_verifier() -> None:
    """defects.md 7: by default, no client is accepted unattested, and no plug-in is loaded."""
    result = select(None, CONTEXT)
    assert set(result) == {"tdx", "sgx"}
    assert result.names == ("tdx", "sgx")
    assert not result.accepts_anyone


@pytest.mark.parametrize(
    ("names", "tees"),
    [
        (["tdx"], {"tdx"}),
        (["tdx_ecdsa"], {"tdx"}),
        (["tdx", "tdx_ecdsa"], {"tdx"}),
        (["sgx_ecdsa"], {"sgx"}),
        (["sgx", "tdx"], {"tdx", "sgx"}),
        (["toy", "tdx"], {"toy", "tdx"}),
    ],
)
def test_names(names: list[str], tees: set[str]) -> None:
    result = select(names, CONTEXT)
    assert set(result) == tees
    for tee in tees:
        assert result[tee].tee == tee
    assert not result.accepts_anyone


def test_only_some_tees_are_served_unnamed_before_a_pin() -> None:
    assert select(None, CONTEXT).pinned_only == {"sgx"}
    for names in (["sgx"], ["sgx_ecdsa", "tdx"], ["toy"]):
        assert select(names, CONTEXT).pinned_only == frozenset()


def test_an_unnamed_tee_of_another_package_needs_a_pin() -> None:
    tees = known_tees(["toy"])
    assert registry.select(None, tees, CONTEXT).pinned_only == {"sgx", "toy"}


def test_built_in_names_cannot_be_taken() -> None:
    assert isinstance(select(["tdx"], CONTEXT)["tdx"], TdxVerifier)
    assert isinstance(select(["tdx_ecdsa"], CONTEXT)["tdx"], TdxVerifier)
    assert isinstance(select(["sgx"], CONTEXT)["sgx"], SgxVerifier)
    assert isinstance(select(["toy"], CONTEXT)["toy"], ToyVerifier)


def test_nullverifier_needs_its_flag() -> None:
    """defects.md 7: accepting every client needs a flag that says so."""
    with pytest.raises(ConfigError, match="--insecure-nullverifier"):
        select(["nullverifier"], CONTEXT)
    result = select(["nullverifier"], CONTEXT, insecure_nullverifier=True)
    assert result.accepts_anyone
    assert isinstance(result["none"], NullVerifier)
    claims = run(verified_by(result["none"], tdx_evidence(good_quote()), now=NOW))
    assert (claims.tee, claims.claims) == ("none", {})


def test_the_flag_alone_has_no_effect() -> None:
    """defects.md 7: the flag does not add nullverifier to the default set."""
    assert not select(None, CONTEXT, insecure_nullverifier=True).accepts_anyone


def test_nullverifier_cannot_be_combined() -> None:
    with pytest.raises(ConfigError, match="name nullverifier alone"):
        select(["tdx", "nullverifier"], CONTEXT, insecure_nullverifier=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["sev"],
            r"'sev'; known are gone, .*nullverifier, .*sample, sgx, .*tdx_ecdsa, thief, toy, twin",
        ),
        (["TDX"], "no verifier 'TDX'"),
        ([""], "no verifier ''"),
        ([], "no verifier is named"),
        (["gone"], "cannot be loaded: No module named"),
        (["nameless"], "cannot be loaded"),
        (["nothing"], "is not a `Tee` object"),
        (["renamed"], "must have the TEE's name"),
        (["wrong"], "serves 'tdx'"),
        (["thief"], "has the alias 'tdx_ecdsa', which is a built-in name"),
        (["twin"], "both have the document 'tdxData'"),
        (["toy", "wrong"], "both have the RCAR name 'toy'"),
    ],
)
def test_names_that_cannot_be_used(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        select(names, CONTEXT)
    assert "\n" not in str(caught.value)


def test_the_root_is_passed_to_the_verifier() -> None:
    with pytest.raises(ConfigError, match="root CA"):
        select(None, context(Source(), root_ca_der=b"no certificate"))
    verifier = select(None, CONTEXT)["tdx"]
    with pytest.raises(QuoteInvalid, match="trusted root"):  # the simulated root is not Intel's
        run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))


def test_built_in_tees_need_no_search_of_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes milliseconds of each start, the more packages there are."""

    def search(group: str) -> NoReturn:
        raise AssertionError(group)

    monkeypatch.setattr(registry, "entry_points", search)
    assert known_tees(["tdx", "sgx_ecdsa", "nullverifier"]).names == known_tees().names

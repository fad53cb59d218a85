"""Our rating, reported for refusals, equals the library's for random TCB infos."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    good_collateral,
    platform,
    signed_again,
    with_options,
)
from verdictd_py.errors import QuoteInvalid
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import TCB_STATUSES, TdBody
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.dcap import ContentRefusal, QuoteRating, evaluate_quote
from verdictd_py.tees.intel.pck import verify_pck_chain
from verdictd_py.tees.intel.quote import parse_quote
from verdictd_py.tees.intel.tcb import REVOKED, TcbRating, evaluation_number, rate

LEVELS = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
DATES = ["2018-01-04T00:00:00Z", "2024-03-13T00:00:00Z", "2025-05-14T00:00:00Z"]
ADVISORIES = st.lists(st.sampled_from(["INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003"]))


def _level(statuses: list[str], tcb: st.SearchStrategy[dict[str, Any]]) -> Any:
    return st.fixed_dictionaries(
        {"tcb": tcb, "tcbDate": st.sampled_from(DATES), "tcbStatus": st.sampled_from(statuses)},
        optional={"advisoryIDs": ADVISORIES},
    )


def _near(svns: bytes) -> Any:
    """Strategy of components that a platform with `svns` meets, or misses by one."""
    return st.tuples(st.integers(0, 15), st.integers(-1, 1)).map(
        lambda change: [
            {"svn": max(0, svn + (change[1] if at == change[0] else 0))}
            for at, svn in enumerate(svns)
        ]
    )


CPU_SVN = platform().identity.cpu_svn
TCB_LEVELS = st.lists(
    _level(
        LEVELS,
        st.fixed_dictionaries(
            {
                "sgxtcbcomponents": _near(CPU_SVN),
                "pcesvn": st.integers(10, 12),
                "tdxtcbcomponents": _near(bytes([5, 1, 2]) + bytes(13)),
            }
        ),
    ),
    min_size=1,
    max_size=5,
)
ISV_SVN = st.integers(3, 6).map(lambda svn: {"isvsvn": svn})
MODULE_LEVELS = st.lists(_level(["UpToDate", "OutOfDate", "Revoked"], ISV_SVN), max_size=3)
ENCLAVE_LEVELS = st.lists(_level(["UpToDate", "OutOfDate", "Revoked"], ISV_SVN), max_size=3)

QUOTES = {
    (status, body): parse_quote(
        with_options(tcb_status=status).quote(REPORT_DATA, version=5, body=body)
    )
    for status, body in [
        ("UpToDate", TdBody.TD10),
        ("UpToDate", TdBody.TD15),
        ("TDRelaunchAdvised", TdBody.TD15),
        ("TDRelaunchAdvised", TdBody.TD15_EX),
    ]
}
PLATFORM = verify_pck_chain(
    next(iter(QUOTES.values())).pck_chain,
    root_key=root_key_digest(platform().root_ca_der),
    now=NOW,
)


def _by_the_library(raw: bytes, collateral: Collateral) -> TcbRating | str | None:
    """Return the library's rating, its text for a revoked TCB, None if it makes no rating."""
    try:
        verdict = evaluate_quote(raw, collateral, now=NOW, root_ca_der=platform().root_ca_der)
    except QuoteInvalid:
        return None
    if isinstance(verdict, ContentRefusal):
        assert verdict.text == "TCB status is invalid: Revoked"
        return REVOKED
    return verdict.tcb


@given(
    st.sampled_from(sorted(QUOTES)), TCB_LEVELS, MODULE_LEVELS, ENCLAVE_LEVELS, st.integers(0, 1)
)
@examples(150)
def test_our_rating_equals_the_librarys(
    which: Any, levels: Any, module: Any, enclave: Any, evaluation: int
) -> None:
    info = json.loads(good_collateral().tcb_info)
    info["tcbLevels"] = levels
    info["tdxModuleIdentities"][0]["tcbLevels"] = module
    identity = json.loads(good_collateral().qe_identity)
    identity["tcbLevels"] = enclave
    identity["tcbEvaluationDataNumber"] += evaluation
    collateral = signed_again(
        good_collateral(), tcb_info=json.dumps(info), qe_identity=json.dumps(identity)
    )
    quote = QUOTES[which]
    expected = _by_the_library(quote.raw, collateral)
    result = rate(quote, PLATFORM, collateral)
    if expected == REVOKED:
        assert result is not None
        assert result.status == REVOKED
    else:
        assert result == expected
    assert evaluation_number(collateral) == 17


@pytest.mark.parametrize("status", TCB_STATUSES)
def test_every_status(status: str) -> None:
    machine = with_options(tcb_status=status, advisory_ids=("INTEL-SA-00615",))
    quote = parse_quote(machine.quote(REPORT_DATA))
    result = rate(quote, PLATFORM, machine.collateral(NOW))
    assert result is not None
    assert (result.status, result.advisory_ids) == (status, ("INTEL-SA-00615",))


def test_the_library_rates_an_accepted_quote() -> None:
    quote = next(iter(QUOTES.values()))
    verdict = evaluate_quote(
        quote.raw, good_collateral(), now=NOW, root_ca_der=platform().root_ca_der
    )
    assert isinstance(verdict, QuoteRating)


@pytest.mark.parametrize("text", ["[]", "{}", '{"tcbLevels":[{}]}', "null", "[" * 100_000])
def test_collateral_of_an_unknown_form_is_not_rated(text: str) -> None:
    quote = next(iter(QUOTES.values()))
    assert rate(quote, PLATFORM, signed_again(good_collateral(), tcb_info=text)) is None
    with pytest.raises(ValueError, match="number"):
        evaluation_number(signed_again(good_collateral(), tcb_info=text))

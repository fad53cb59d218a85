"""Schema of reference data: what an operator mistypes is refused, with the right name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.tees import SGX, TDX, TEES
from tests.tees import toy
from verdictd_py.documents.datanames import DataNames, data_names
from verdictd_py.documents.schema import closest
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.ports.tees import Tee

A = "ab" * 48
PACKAGED = data_names(TDX.documents.defaults().policy)


def refusal(values: dict[str, JsonValue], reads: DataNames = PACKAGED, tee: Tee = TDX) -> str:
    with pytest.raises(PolicyInvalid) as refused:
        tee.reference_schema().require("tdxData", values, reads)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mrtd", "mrTd"),
        ("mr_td", "mrTd"),
        ("RTMR1", "rtmr1"),
        ("mrConfigID", "mrConfigId"),
        ("tcbstatus", "tcbStatus"),
        ("tcbGraceDay", "tcbGraceDays"),
        ("rtmr-1", "rtmr1"),
    ],
)
def test_a_name_that_is_nearly_right_is_refused(name: str, meant: str) -> None:
    assert refusal({name: [A]}) == (
        f"tdxData: no policy reads {name!r}, so that it would pin nothing; did you mean {meant}?"
    )
    assert meant in refusal({name: []})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rack": ["a"]}, "remove it, or store the policy that reads data.rack first"),
        ({"debug": [True]}, "no policy reads 'debug'"),
        ({"tcbBehindDays": 3}, "no policy reads 'tcbBehindDays'"),
        ({"tcbStatus": ["Uptodate"]}, "no status 'Uptodate'; did you mean UpToDate?"),
        ({"tcbStatus": ["good"]}, "'good' is not one of UpToDate, SWHardeningNeeded"),
        ({"tcbStatus": [None]}, "null is not one of"),
        ({"tcbGraceDays": {"OutOfdate": 3}}, "did you mean OutOfDate?"),
        ({"tcbGraceDays": {"OutOfDate": "3"}}, "is not a number of days"),
        ({"tcbGraceDays": []}, "is not an object of days"),
        ({"mrTd": ["ab"]}, "'ab' is not 96 lower-case hex digits"),
        ({"mrTd": [A.upper()]}, f"did you mean {A}?"),
        ({"mrTd": [A, 1]}, "mrTd: 1 is not 96"),
        ({"mrTd": A}, 'mrTd is not a list of accepted values; write ["..."]'),
        ({"mrTd": None}, "is not a list"),
        ({"advisoryIds": [1]}, "every value must be a text"),
        ({"mrtd": [], "rtmr9x": []}, "; no policy reads 'rtmr9x'"),
        ({"mrTd": [{}]}, "mrTd: an object is not 96"),
        ({"tcbStatus": [["UpToDate"]]}, "tcbStatus: a list is not one of"),
        ({"tcbStatus": ["Uptodate"]}, "tdxData: tcbStatus: there is no status"),
        ({"tcbGraceDays": 3}, "tdxData: tcbGraceDays is not an object of days"),
        ({"tcbGraceDays": {"good": 3}}, "tdxData: tcbGraceDays: 'good' is not one of"),
        ({"tcbGraceDays": {"OutOfDate": "3"}}, "tcbGraceDays: '3' for 'OutOfDate' is not"),
        ({"tcbGraceDays": {"OutOfDate": True}}, "tcbGraceDays: true for 'OutOfDate' is not"),
        ({f"x{n}": 1 for n in range(9)}, "; and 1 more"),
        ({f"x{n}": 1 for n in range(10)}, "; and 2 more"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, JsonValue], said: str) -> None:
    assert said in refusal(values)


def test_as_many_problems_as_one_message_has_are_all_named() -> None:
    said = refusal({f"x{n}": 1 for n in range(8)})
    assert said.count("no policy reads") == 8
    assert "more" not in said


def test_values_of_the_right_form_fit() -> None:
    values: dict[str, JsonValue] = {
        "mrTd": [A],
        "tcbStatus": ["UpToDate", "OutOfDate"],
        "advisoryIds": ["INTEL-SA-00837"],
        "tcbGraceDays": {"OutOfDate": 30, "SWHardeningNeeded": 0.5},
    }
    TDX.reference_schema().require("tdxData", values, PACKAGED)


def test_days_of_grace_are_by_any_status_of_a_vendor_whose_terms_are_not_known() -> None:
    schema = replace(TDX.reference_schema(), statuses=())
    schema.require("tdxData", {"tcbGraceDays": {"Late": 3}}, PACKAGED)
    with pytest.raises(PolicyInvalid, match="'3' for 'Late' is not a number of days"):
        schema.require("tdxData", {"tcbGraceDays": {"Late": "3"}}, PACKAGED)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mrSgr", "mrSigner"),
        ("MR-SIGNER", "mrSigner"),
        ("mrSigner", "mrSigner"),
        ("mrEnclaves", "mrEnclave"),
        ("mrs", None),
        ("", None),
    ],
)
def test_the_most_similar_name_is_suggested(name: str, meant: str | None) -> None:
    assert closest(name, ("mrSeam", "mrSignerSeam", "mrSigner", "mrEnclave")) == meant


def test_minima_of_sgx_are_numbers_and_its_policy_reads_no_platform() -> None:
    policy = data_names(SGX.documents.defaults().policy)
    assert "svn is not a number" in refusal({"svn": "3"}, policy, SGX)
    assert "svn is not a number" in refusal({"svn": True}, policy, SGX)
    assert "is not base64 of 32 bytes" in refusal({"mrSigner": [A]}, policy, SGX)
    assert "no policy reads 'fmspc'" in refusal({"fmspc": ["00" * 6]}, policy, SGX)
    own = DataNames(frozenset({"fmspc"}), any_name=False)
    SGX.reference_schema().require("sgxData", {"fmspc": ["x"]}, own)


@pytest.mark.parametrize("tee", tuple(TEES), ids=lambda tee: tee.name)
def test_packaged_data_fits(tee: Tee) -> None:
    defaults = tee.documents.defaults()
    reads = data_names(defaults.policy)
    tee.reference_schema().require("data", defaults.reference.values, reads)
    assert set(tee.measurements) <= set(tee.reference_schema().names)


def test_every_term_of_the_vendor_is_known() -> None:
    for tee in (TDX, SGX):
        assert tee.tcb is not None
        assert {*tee.tcb.accepted, *tee.tcb.revoked} <= set(tee.tcb.known)


def test_a_policy_may_read_names_of_its_own() -> None:
    schema = TDX.reference_schema()
    own = DataNames(frozenset({"rack", "mrtd"}), any_name=False)
    schema.require("tdxData", {"rack": 1, "mrtd": [A]}, own)
    whole = DataNames(frozenset(), any_name=True)
    schema.require("tdxData", {"rack": 1}, whole)
    assert "did you mean mrTd?" in refusal({"mrtd": [A]}, whole)


def test_values_that_the_policy_in_force_does_not_read() -> None:
    schema = TDX.reference_schema()
    values: dict[str, JsonValue] = {"mrTd": [A], "rtmr1": [], "tcbStatus": ["UpToDate"]}
    assert schema.unread(values, DataNames(frozenset({"tcbStatus"}), any_name=False)) == ("mrTd",)
    assert schema.unread(values, DataNames(frozenset(), any_name=True)) == ()
    assert schema.unread(values, PACKAGED) == ()
    nothing = DataNames(frozenset(), any_name=False)
    assert schema.unread({"tcbGraceDays": {}, "rtmr0": []}, nothing) == ()
    minima = SGX.reference_schema()
    assert minima.unread({"svn": 0}, nothing) == ()
    assert minima.unread({"svn": 1}, nothing) == ("svn",)


def test_a_tee_whose_policy_reads_nothing_has_no_names() -> None:
    assert toy.TEE.reference_schema().names == ()


def test_a_packaged_policy_that_reads_data_as_a_whole_may_read_every_claim() -> None:
    def packaged(name: str) -> str:
        return "package policy\nallow if { some name; input[name] in data[name] }\n"

    whole = replace(SGX, documents=replace(SGX.documents, packaged=packaged))
    names = whole.reference_schema().names
    assert set(names) == set(SGX.claims) - {"debug"}


@pytest.mark.parametrize(
    ("policy", "named", "any_name"),
    [
        ("", set(), False),
        ("allow if data.rack", {"rack"}, False),
        ('x := data["a b"]; y := data[`c`]', {"a b", "c"}, False),
        ("import data.rack.row as r", {"rack"}, False),
        ('# data.rack\nx := "data.rack"; y := `data[x]`', set(), False),
        ('x := "\\"data.a"; data.b', {"b"}, False),
        ("input.data.x; input.initData.data[y]", set(), False),
        ("some x; data[x]", set(), True),
        ("data[ x ].y; data . z", {"z"}, True),
        ("allow if f(data)", set(), True),
        ("allow with data as {}", set(), True),
        ("mydata.x; data_2.y", set(), False),
        ("data", set(), True),
        ("data.", set(), True),
        ("ok if data.ключ", {"ключ"}, False),
        ('data["\\u0061"]', {"a"}, False),
        ('data["a"', set(), True),
        ("data[1]", set(), True),
        ("data[true]", set(), True),
    ],
)
def test_names_that_a_policy_reads(policy: str, named: set[str], *, any_name: bool) -> None:
    assert data_names(policy) == DataNames(frozenset(named), any_name=any_name)

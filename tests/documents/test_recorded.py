"""Files of recorded claims: claims, reports that contain them, and what is neither."""

from __future__ import annotations

import json

import pytest

from verdictd_py.documents.recorded import MAX_RECORDED_BYTES, read_recorded
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError

CLAIMS: dict[str, JsonValue] = {"mrTd": "11", "debug": False}


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def test_claims_are_an_object() -> None:
    (found,) = read_recorded(written(CLAIMS), "f")
    assert (found.claims, found.tee, found.withheld) == (CLAIMS, None, ())


@pytest.mark.parametrize(
    ("more", "withheld"),
    [({}, ()), ({"withheld_claims": ["eventLog"]}, ("eventLog",)), ({"withheld_claims": 1}, ())],
)
def test_a_report_has_the_claims_and_their_tee(
    more: dict[str, JsonValue], withheld: tuple[str, ...]
) -> None:
    report = {"verdict": "refused", "tee": "tdx", "claims": CLAIMS, **more}
    (found,) = read_recorded(written(report), "f")
    assert (found.claims, found.tee, found.withheld) == (CLAIMS, "tdx", withheld)


@pytest.mark.parametrize(
    ("verdict", "code", "fault"),
    [
        ("refused", "policy-refused", ""),
        ("accepted", "ok", ""),
        ("refused", "tcb-status", "tcb-status"),
        ("unverified", "binding-mismatch", "binding-mismatch"),
    ],
)
def test_a_refusal_that_no_policy_decided_is_known(verdict: str, code: str, fault: str) -> None:
    report = {"verdict": verdict, "code": code, "tee": "tdx", "claims": CLAIMS}
    (found,) = read_recorded(written(report), "f")
    assert found.fault == fault


def test_the_output_of_guest_list_has_several_guests() -> None:
    items = [
        {"verdict": "refused", "claims": {"a": 1}},
        {"verdict": "accepted", "claims": {"a": 2}},
    ]
    document = json.dumps({"schema": "verdictd.v1/guest-list", "items": items}).encode()
    assert [guest.claims for guest in read_recorded(document, "f")] == [{"a": 1}, {"a": 2}]


def test_a_list_has_several_guests() -> None:
    report = {"verdict": "accepted", "tee": "sgx", "claims": CLAIMS}
    found = read_recorded(written([report, CLAIMS]), "f")
    assert [each.tee for each in found] == ["sgx", None]


def test_the_input_of_a_release_policy_is_no_report() -> None:
    asked = {"claims": CLAIMS, "appraisal": {}, "resource": {"path": "default/key/1"}}
    (found,) = read_recorded(written(asked), "f")
    assert found.claims == asked
    assert found.for_release


def test_an_event_log_of_the_largest_size_is_read() -> None:
    log = [{"index": 1, "type": "x", "digests": ["00"]} for _ in range(1024)]
    (found,) = read_recorded(written({**CLAIMS, "eventLog": {"events": log}}), "f")
    assert found.claims.keys() == {*CLAIMS, "eventLog"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "f is not valid JSON"),
        (b"\xff", "f is not UTF-8, see byte 0; record the claims again"),
        (b'{"a": NaN}', "f: the JSON has NaN"),
        (b'{"a": 1e999}', "f: the JSON has a number that is not finite"),
        (b'{"a": 1, "a": 2}', "f: the JSON has the member 'a' twice"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested deeper than 32"),
        (b'{"a":' * 100_000, "nested deeper than 32"),
        (b"1", "f is not a JSON object"),
        (b"[]", "f is an empty list"),
        (b"[1]", "f, entry 0 is not a JSON object"),
        (b" " * (MAX_RECORDED_BYTES + 1), "f is larger than"),
        (
            b'{"verdict": "refused", "id": "1b", "claims": {}}',
            "f has no claims: the evidence of guest '1b' did not verify; use a guest with",
        ),
        (b'{"verdict": "refused", "claims": []}', "f has no claims: its evidence did not verify"),
    ],
)
def test_anything_else_is_refused_with_the_cause(data: bytes, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_recorded(data, "f")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

"""Reference data and named sets together: both fit the TEE, or every guest is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.memory import NOW
from tests.support.tees import TDX
from verdictd_py.documents.deciding import combine, require_known_tees, require_sets
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.referencesets import ReferenceSet, Sets
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid, RequestError

A, B = "aa" * 48, "bb" * 48
PACKAGED = TDX.documents.defaults().policy
SCHEMA = TDX.reference_schema()


def sets(**values: tuple[str, ...]) -> Sets:
    return {"kernel": ReferenceSet(values, "a", NOW, expires_at=NOW + timedelta(days=1))}


def deciding(values: dict[str, JsonValue], of_tee: Sets, policy: str = PACKAGED) -> ReferenceData:
    reference = ReferenceData.of(values)
    return combine(SCHEMA, "tdxData", reference, of_tee, policy=policy, now=NOW)


def test_values_of_a_set_are_accepted_until_it_expires() -> None:
    reference = ReferenceData.of({"rtmr1": [B], "rtmr2": []})
    for days, expected in ((0, A), (1, "(kernel is expired)")):
        now = NOW + timedelta(days=days)
        found = combine(SCHEMA, "tdxData", reference, sets(rtmr1=(A,)), policy=PACKAGED, now=now)
        assert found.values == {"rtmr1": [B, expected], "rtmr2": []}


def test_data_without_sets_decides_as_it_is_stored() -> None:
    reference = ReferenceData.of({"rtmr1": [B]})
    assert combine(SCHEMA, "tdxData", reference, {}, policy=PACKAGED, now=NOW) is reference


def test_data_with_a_name_that_its_policy_does_not_read_is_refused() -> None:
    for of_tee in ({}, sets(rtmr1=(A,))):
        with pytest.raises(PolicyInvalid, match=r"^tdxData: no policy reads 'rack'"):
            deciding({"rack": ["a"]}, of_tee)
        with pytest.raises(PolicyInvalid, match=r"^tdxData: no policy reads 'mrtd'"):
            deciding({"mrtd": [A]}, of_tee)
        own = "package policy\nallow if input.rack in data.rack\n"
        assert deciding({"rack": ["a"]}, of_tee, own).values["rack"] == ["a"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rtmr1": (A, "aa")}, "rtmr1: 'aa' is not 96 lower-case hex digits"),
        ({"rtmr1": (A.upper(),)}, "is not 96 lower-case hex digits"),
        ({"rtmr": (A,)}, "'rtmr' is not a measurement"),
        ({"tcbStatus": ("UpToDate",)}, "'tcbStatus' is not a measurement"),
        ({}, "a set without values"),
    ],
)
def test_a_set_that_does_not_fit_refuses_every_guest(
    values: dict[str, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(PolicyInvalid, match=rf"^referenceSets: set kernel: .*{said}"):
        require_sets(SCHEMA, sets(**values))
    with pytest.raises(PolicyInvalid, match=rf"^referenceSets: set kernel: .*{said}"):
        deciding({"rtmr1": [B]}, sets(**values))
    both = {**sets(rtmr1=(A,)), "kernel2": sets(**values)["kernel"]}
    with pytest.raises(PolicyInvalid, match=r"^referenceSets: set kernel2: "):
        require_sets(SCHEMA, both)


def test_sets_of_a_misspelled_tee_are_refused() -> None:
    known = ("tdx", "sgx", "sample")
    for tees in (("tdx", "TDX"), ("TDX",)):
        with pytest.raises(RequestError) as refused:
            require_known_tees(iter(tees), iter(known))
        assert str(refused.value) == ("referenceSets: there is no TEE 'TDX'; did you mean tdx?")


def test_sets_of_known_tees_and_of_one_that_is_not_loaded_stay() -> None:
    """A name that is similar to none may be that of a package that is not installed now."""
    require_known_tees(("snp", "tdx", "sgx"), ("tdx", "sgx"))

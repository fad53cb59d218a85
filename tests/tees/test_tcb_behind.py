"""What of a platform is behind the newest TCB: component, versions, date, half to update."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.vectors import vector
from tests.tees.test_tcb_levels import (
    CPU_SVN,
    ISV_SVN,
    NEW,
    OLD,
    PCE_SVN,
    PLATFORM,
    WITH_VERSION,
    WITHOUT_VERSION,
    Case,
    collateral,
    level,
    own_level,
)
from verdictd_py.tees.intel.behind import Behind, behind
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.pck import verify_pck_chain
from verdictd_py.tees.intel.quote import SGX, parse_quote

AT = {
    "tdx-v4-up-to-date": datetime(2025, 6, 20, 10, 16, 3, tzinfo=UTC),
    "sgx-v3": datetime(2025, 6, 20, 10, 56, 11, tzinfo=UTC),
}
NEWEST = "2025-11-12T00:00:00Z"


def found(case: Case) -> tuple[Behind, ...]:
    quote, evidence = case.parts()
    return behind(quote, PLATFORM, evidence)


def texts(case: Case) -> list[str]:
    return [str(each) for each in found(case)]


def raised(svns: bytes, at: int, by: int = 1) -> bytes:
    changed = bytearray(svns.ljust(16, b"\0"))
    changed[at] += by
    return bytes(changed)


def test_nothing_is_behind_on_the_newest_tcb() -> None:
    assert found(Case([level(), level("OutOfDate", cpu=bytes(16), date=OLD)])) == ()
    assert found(Case([level("SWHardeningNeeded")])) == ()


@pytest.mark.parametrize("at", range(16))
def test_a_cpu_component_is_named_with_what_it_has_and_needs(at: int) -> None:
    case = Case([level(cpu=raised(CPU_SVN, at, 2)), level("OutOfDate", date=OLD)])
    has = CPU_SVN[at]
    assert texts(case) == [
        f"platform: CPU component {at + 1} has SVN {has}, needs {has + 2} since 2025-05-14"
    ]


def test_a_component_has_intels_name() -> None:
    newest = level(cpu=raised(CPU_SVN, 1))
    newest["tcb"]["sgxtcbcomponents"][1] |= {
        "category": "OS/VMM",
        "type": "SGX Late Microcode Update",
    }
    (text,) = texts(Case([newest, level("OutOfDate", date=OLD)]))
    name = "CPU component 2, SGX Late Microcode Update (OS/VMM)"
    assert text == f"platform: {name} has SVN 2, needs 3 since 2025-05-14"


def test_it_is_behind_since_the_first_level_that_needs_more() -> None:
    case = Case(
        [
            level(pce=PCE_SVN + 2, date=NEWEST),
            level("OutOfDate", pce=PCE_SVN + 1, date=NEW),
            level("OutOfDate", date=OLD),
        ]
    )
    assert texts(case) == [f"platform: PCE has SVN {PCE_SVN}, needs {PCE_SVN + 2} since 2025-05-14"]


def test_a_newer_level_that_is_out_of_date_itself_is_not_what_it_needs() -> None:
    case = Case([level("Revoked", pce=PCE_SVN + 1), level(), level("OutOfDate", cpu=bytes(16))])
    assert found(case) == ()


@pytest.mark.parametrize(("at", "half"), [(0, "TDX module"), (1, "TDX module"), (2, "platform")])
def test_a_module_without_version_is_part_of_the_platforms_levels(at: int, half: str) -> None:
    case = Case([level(tdx=raised(WITHOUT_VERSION, at)), level("OutOfDate", tdx=bytes(16))])
    (each,) = found(case)
    assert (each.half, each.component) == (half, f"TDX component {at + 1}")
    assert (each.has, each.needs) == (case.launch[at], case.launch[at] + 1)


def test_a_module_with_a_version_has_levels_of_its_own() -> None:
    modules = {
        "TDX_01": [own_level(svn=7, date=NEWEST), own_level("OutOfDate", 6), own_level(svn=2)],
        "TDX_03": [own_level(svn=9)],
    }
    case = Case([level(tdx=raised(WITH_VERSION, 0))], modules=modules, launch=WITH_VERSION)
    assert texts(case) == ["TDX module: TDX module has SVN 5, needs 7 since 2025-05-14"]


def test_the_quoting_enclave_belongs_to_the_platform() -> None:
    enclave = [own_level(svn=ISV_SVN + 1), own_level("OutOfDate", svn=ISV_SVN, date=OLD)]
    expected = ["platform: quoting enclave has SVN 5, needs 6 since 2025-05-14"]
    assert texts(Case(enclave=enclave)) == expected
    assert texts(Case(enclave=enclave, tee=SGX, launch=b"")) == expected


def test_a_module_that_was_updated_since_the_start_needs_a_restart_of_the_td() -> None:
    modules = {"TDX_01": [own_level(svn=6), own_level("OutOfDate", 5, date=OLD)]}
    levels = [level(tdx=bytes(16), pce=PCE_SVN + 1), level("OutOfDate", date=OLD)]
    updated = raised(WITH_VERSION, 0)
    case = Case(levels, modules=modules, launch=WITH_VERSION, current=updated)
    assert [(each.component, each.restart) for each in found(case)] == [
        ("PCE", False),
        ("TDX module", True),
    ]
    assert texts(case)[1].endswith("; it was updated after the TD was started: restart the TD")
    old = Case(levels, modules=modules, launch=WITH_VERSION, current=WITH_VERSION)
    assert [each.restart for each in found(old)] == [False, False]


@pytest.mark.parametrize("info", [[], {}, {"tcbLevels": []}, {"tcbLevels": [{"tcb": 1}]}, "x"])
def test_collateral_of_another_form_reports_nothing(info: Any) -> None:
    quote, _ = Case().parts()
    assert behind(quote, PLATFORM, collateral(info, {"tcbLevels": []})) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tdx-v4-up-to-date", []),
        (  # the platform needs a change of its configuration
            "sgx-v3",
            ["platform: CPU component 7 has SVN 0, needs 12 since 2020-11-11"],
        ),
    ],
)
def test_real_platforms(name: str, expected: list[str]) -> None:
    quote = parse_quote(vector(f"quotes/{name}/quote.bin").read_bytes())
    evidence = collateral_from_json(vector(f"quotes/{name}/collateral.json").read_text())
    platform = verify_pck_chain(quote.pck_chain, root_key=root_key_digest(None), now=AT[name])
    assert [str(each) for each in behind(quote, platform, evidence)] == expected

"""Every component of a platform is displayed with its level and the newest one."""

from __future__ import annotations

from tests.tees.test_tcb_behind import NEWEST, raised
from tests.tees.test_tcb_levels import (
    CPU_SVN,
    OLD,
    PCE_SVN,
    PLATFORM,
    WITH_VERSION,
    Case,
    level,
    own_level,
)
from verdictd_py.domain.tcb import TcbComparison
from verdictd_py.tees.intel.components import compare


def found(case: Case) -> TcbComparison:
    quote, evidence = case.parts()
    compared = compare(quote, PLATFORM, evidence)
    assert compared is not None
    return compared


def test_all_components_of_a_td_are_there() -> None:
    compared = found(Case([level()]))
    names = [each.name for each in compared.components]
    assert len(names) == 16 + 1 + 16 + 1
    assert names[0] == "CPU component 1"
    assert names[16] == "PCE (PCESVN)"
    assert names[17] == "TDX component 1"
    assert names[-1] == "quoting enclave"
    assert [each.has for each in compared.components[:16]] == list(CPU_SVN)
    assert compared.status == compared.newest_status == "UpToDate"


def test_the_level_and_the_newest_one_differ() -> None:
    newest = level(cpu=raised(CPU_SVN, 3, 2), pce=PCE_SVN + 1, date=NEWEST)
    compared = found(Case([newest, level("OutOfDate", date=OLD)]))
    fourth, pce = compared.components[3], compared.components[16]
    assert (fourth.has, fourth.level, fourth.newest) == (CPU_SVN[3], CPU_SVN[3], CPU_SVN[3] + 2)
    assert (pce.has, pce.level, pce.newest) == (PCE_SVN, PCE_SVN, PCE_SVN + 1)
    assert (compared.status, compared.date) == ("OutOfDate", OLD)
    assert (compared.newest_status, compared.newest_date) == ("UpToDate", NEWEST)


def test_a_platform_below_every_level_meets_none() -> None:
    compared = found(Case([level(pce=PCE_SVN + 1)]))
    assert {each.level for each in compared.components[:33]} == {None}
    assert compared.status == ""


def test_a_module_with_a_version_is_a_component_of_its_own() -> None:
    modules = {"TDX_01": [own_level(svn=7), own_level("OutOfDate", 5), own_level("OutOfDate", 2)]}
    case = Case([level(tdx=raised(WITH_VERSION, 0))], modules=modules, launch=WITH_VERSION)
    compared = found(case)
    (module,) = [each for each in compared.components if each.name == "TDX module TDX_01"]
    assert (module.has, module.level, module.newest) == (5, 5, 7)
    elsewhere = [each.name for each in compared.components if each.elsewhere]
    assert elsewhere == ["TDX component 1", "TDX component 2"]


def test_the_newest_level_is_the_highest_in_any_order() -> None:
    newest = level(cpu=raised(CPU_SVN, 3), date=NEWEST)
    for levels in ([level(date=OLD), newest], [newest, level(date=OLD)]):
        compared = found(Case(levels))
        assert compared.components[3].newest == CPU_SVN[3] + 1
        assert (compared.date, compared.newest_date) == (OLD, NEWEST)

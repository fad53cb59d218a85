"""Rules of the rating of a platform; `test_tcb` compares it with the library's at random."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.pck import Platform
from verdictd_py.tees.intel.quote import SGX, TDX, BodyKind, Quote
from verdictd_py.tees.intel.tcb import TcbRating, rate

OLD, NEW = "2024-03-13T00:00:00Z", "2025-05-14T00:00:00Z"
CPU_SVN = bytes(range(1, 17))
PCE_SVN = 11
ISV_SVN = 5
PLATFORM = Platform("00" * 6, "platform", CPU_SVN, "0000", PCE_SVN, b"")
GOOD = "UpToDate"
WITHOUT_VERSION = bytes([5, 0, 2])
"""SVNs of a TDX module that is part of the platform's TCB levels."""
WITH_VERSION = bytes([5, 1, 2])
"""SVNs of a TDX module of version 1 with the SVN 5, which has its own levels."""


def components(svns: bytes) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns.ljust(16, b"\0")]


def level(
    status: str = GOOD,
    *,
    cpu: bytes = CPU_SVN,
    pce: int = PCE_SVN,
    tdx: bytes = b"",
    date: str = NEW,
    advisories: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    tcb = {"sgxtcbcomponents": components(cpu), "pcesvn": pce, "tdxtcbcomponents": components(tdx)}
    made: dict[str, Any] = {"tcb": tcb, "tcbStatus": status, "tcbDate": date}
    return made if advisories is None else {**made, "advisoryIDs": list(advisories)}


def own_level(
    status: str = GOOD, svn: int = ISV_SVN, *, date: str = NEW, advisories: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a level of the quoting enclave or of a module."""
    members = {"advisoryIDs": list(advisories)} if advisories else {}
    return {"tcb": {"isvsvn": svn}, "tcbStatus": status, "tcbDate": date, **members}


@dataclass
class Case:
    """A guest whose platform has the SVNs above, and the collateral that rates it."""

    levels: list[dict[str, Any]] = field(default_factory=lambda: [level()])
    modules: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"TDX_01": [own_level()]}
    )
    enclave: list[dict[str, Any]] = field(default_factory=lambda: [own_level()])
    tee: str = TDX
    launch: bytes = WITHOUT_VERSION
    current: bytes | None = None
    isv_svn: bytes = ISV_SVN.to_bytes(2, "little")

    def verdict(self) -> TcbRating | None:
        quote, evidence = self.parts()
        return rate(quote, PLATFORM, evidence)

    def parts(self) -> tuple[Quote, Collateral]:
        """Return the guest's quote and the collateral."""
        kind = BodyKind.TD10 if self.current is None else BodyKind.TD15
        body = self.launch.ljust(584, b"\0") + (self.current or b"").ljust(64, b"\0")
        quote = Quote(
            version=4,
            tee=self.tee,
            kind=BodyKind.SGX if self.tee == SGX else kind,
            raw=b"",
            signed=b"",
            body=body,
            signature=b"",
            attestation_key=b"",
            qe_report=bytes(258) + self.isv_svn.ljust(126, b"\0"),
            qe_report_signature=b"",
            qe_auth_data=b"",
            pck_chain=b"",
        )
        modules = [{"id": name, "tcbLevels": levels} for name, levels in self.modules.items()]
        info = {"tcbLevels": self.levels, "tdxModuleIdentities": modules}
        identity = {"tcbLevels": self.enclave}
        return quote, collateral(info, identity)

    @property
    def status(self) -> str | None:
        verdict = self.verdict()
        return None if verdict is None else verdict.status


def collateral(info: object, identity: object) -> Collateral:
    return Collateral("", b"", b"", "", json.dumps(info), b"", "", json.dumps(identity), b"")


class TestPlatformLevel:
    def test_the_first_level_that_is_met_counts(self) -> None:
        above = level(cpu=CPU_SVN[:15] + b"\x11")
        assert Case([above, level("OutOfDate", date=OLD)]).verdict() == TcbRating(
            "OutOfDate", (), OLD
        )
        assert Case([above]).verdict() is None

    @pytest.mark.parametrize("at", range(16))
    def test_every_cpu_svn_must_be_met(self, at: int) -> None:
        missed = bytearray(CPU_SVN)
        missed[at] += 1
        assert Case([level(cpu=bytes(missed))]).status is None

    def test_the_pce_svn_must_be_met(self) -> None:
        assert Case([level(pce=PCE_SVN + 1)]).status is None
        assert Case([level(pce=PCE_SVN)]).status == GOOD
        assert Case([level(pce=PCE_SVN - 1)]).status == GOOD

    @pytest.mark.parametrize("at", range(16))
    def test_every_svn_of_a_module_without_version_must_be_met(self, at: int) -> None:
        needed = bytearray(WITHOUT_VERSION.ljust(16, b"\0"))
        assert Case([level(tdx=bytes(needed))]).status == GOOD
        needed[at] += 1
        assert Case([level(tdx=bytes(needed))]).status is None

    @pytest.mark.parametrize("at", range(16))
    def test_the_first_two_svns_of_a_module_with_a_version_are_its_own(self, at: int) -> None:
        needed = bytearray(WITH_VERSION.ljust(16, b"\0"))
        needed[at] += 1
        case = Case([level(tdx=bytes(needed))], launch=WITH_VERSION)
        assert case.status == (GOOD if at < 2 else None)

    @pytest.mark.parametrize(
        "lower", [{"cpu": bytes(16)}, {"pce": PCE_SVN - 1}, {"tdx": bytes([4])}]
    )
    def test_the_highest_level_is_tried_first_whatever_their_order(
        self, lower: dict[str, Any]
    ) -> None:
        high = level(tdx=bytes([5]))
        low = level("OutOfDate", **{"tdx": bytes([5]), **lower})
        assert Case([low, high]).status == Case([high, low]).status == GOOD

    def test_another_number_of_components_is_not_comparable(self) -> None:
        for name in ("sgxtcbcomponents", "tdxtcbcomponents"):
            for count in (0, 15, 17):
                changed = level()
                changed["tcb"][name] = (changed["tcb"][name] * 2)[:count]
                assert Case([changed]).verdict() is None

    def test_levels_of_sgx_have_no_module(self) -> None:
        of_sgx = level("OutOfDate")
        del of_sgx["tcb"]["tdxtcbcomponents"]
        case = Case([of_sgx], {}, tee=SGX, launch=b"\xff" * 16)
        assert case.verdict() == TcbRating("OutOfDate", (), NEW)
        case.tee = TDX
        assert case.verdict() is None


class TestModule:
    """Only a module with a version has levels."""

    def test_a_module_is_selected_by_its_version(self) -> None:
        modules = {"TDX_03": [own_level("Revoked")], "tdx_0a": [own_level("OutOfDate")]}
        assert Case(modules=modules, launch=bytes([5, 10])).status == "OutOfDate"
        assert Case(modules=modules, launch=bytes([5, 3])).status == "Revoked"
        assert Case(modules=modules, launch=bytes([5, 1])).verdict() is None
        assert Case(modules=modules, launch=bytes([5, 0, 3])).status == GOOD

    def test_the_level_of_a_module_is_the_first_that_its_svn_meets(self) -> None:
        modules = {"TDX_01": [own_level(svn=6), own_level("OutOfDate", 4)]}
        assert Case(modules=modules, launch=WITH_VERSION).status == "OutOfDate"
        assert Case(modules=modules, launch=bytes([6, 1])).status == GOOD
        assert Case(modules=modules, launch=bytes([3, 1])).verdict() is None

    def test_advisories_of_platform_and_module_are_merged(self) -> None:
        case = Case(
            [level(advisories=("A", "B"))],
            {"TDX_01": [own_level(advisories=("C", "A"))]},
            [own_level(advisories=("D", "B"))],
            launch=WITH_VERSION,
        )
        verdict = case.verdict()
        assert verdict is not None
        assert verdict.advisory_ids == ("A", "B", "C", "D")

    @pytest.mark.parametrize(
        ("platform", "module", "expected"),
        [
            (OLD, NEW, OLD),
            (NEW, OLD, OLD),
            # Earlier in time, though not as text.
            ("2024-03-13T00:00:00+02:00", "2024-03-12T23:00:00Z", "2024-03-13T00:00:00+02:00"),
        ],
    )
    def test_the_date_is_the_earlier_one(self, platform: str, module: str, expected: str) -> None:
        modules = {"TDX_01": [own_level(date=module)]}
        verdict = Case([level(date=platform)], modules, launch=WITH_VERSION).verdict()
        assert verdict is not None
        assert verdict.date == expected


CONVERGED = {
    ("UpToDate", "OutOfDate"): "OutOfDate",
    ("SWHardeningNeeded", "OutOfDate"): "OutOfDate",
    ("ConfigurationNeeded", "OutOfDate"): "OutOfDateConfigurationNeeded",
    ("ConfigurationAndSWHardeningNeeded", "OutOfDate"): "OutOfDateConfigurationNeeded",
    ("OutOfDate", "OutOfDate"): "OutOfDate",
    ("OutOfDateConfigurationNeeded", "OutOfDate"): "OutOfDateConfigurationNeeded",
    ("Revoked", "OutOfDate"): "Revoked",
    ("UpToDate", "Revoked"): "Revoked",
    ("OutOfDate", "Revoked"): "Revoked",
    ("SWHardeningNeeded", "UpToDate"): "SWHardeningNeeded",
    ("Revoked", "UpToDate"): "Revoked",
}


@pytest.mark.parametrize(("statuses", "expected"), CONVERGED.items())
def test_module_and_quoting_enclave_make_a_platform_worse_never_better(
    statuses: tuple[str, str], expected: str
) -> None:
    own, component = statuses
    modules = {"TDX_01": [own_level(component)]}
    assert Case([level(own)], modules, launch=WITH_VERSION).status == expected
    assert Case([level(own)], enclave=[own_level(component)]).status == expected


def test_the_svn_of_the_quoting_enclave_has_two_bytes() -> None:
    levels = [own_level(svn=0x0102), own_level("OutOfDate", 0)]
    assert Case(enclave=levels, isv_svn=b"\x02\x01").status == GOOD
    assert Case(enclave=levels, isv_svn=b"\x01\x01\x01").status == "OutOfDate"


RELAUNCHED = {
    ("OutOfDate", "UpToDate"): "TDRelaunchAdvised",
    ("OutOfDate", "SWHardeningNeeded"): "TDRelaunchAdvised",
    ("OutOfDate", "ConfigurationNeeded"): "TDRelaunchAdvisedConfigurationNeeded",
    ("OutOfDateConfigurationNeeded", "UpToDate"): "TDRelaunchAdvisedConfigurationNeeded",
    ("OutOfDate", "OutOfDate"): "OutOfDate",
    ("OutOfDate", "Revoked"): "Revoked",
    ("Revoked", "UpToDate"): "Revoked",
    ("UpToDate", "UpToDate"): "UpToDate",
    ("UpToDate", "OutOfDate"): "UpToDate",
    ("ConfigurationNeeded", "UpToDate"): "ConfigurationNeeded",
}


@pytest.mark.parametrize(("statuses", "expected"), RELAUNCHED.items())
def test_a_td_that_was_launched_on_an_older_tcb(statuses: tuple[str, str], expected: str) -> None:
    at_launch, now = statuses
    levels = [level(now, tdx=bytes([6])), level(at_launch, tdx=bytes([5]))]
    assert Case(levels, current=bytes([6])).status == expected


def test_the_current_tcb_converges_with_the_quoting_enclave_too() -> None:
    levels = [level(tdx=bytes([6])), level("OutOfDate", tdx=bytes([5]))]
    outdated = [own_level("OutOfDate")]
    assert Case(levels, enclave=outdated, current=bytes([6])).status == "OutOfDate"

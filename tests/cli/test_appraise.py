"""`verdictd-py appraise`: exit statuses and reports."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.command import Ended, Run, run_all, run_here
from tests.support.documents import follows
from tests.support.eventlogs import command_line, event, written
from tests.support.vectors import vector
from verdictd_py import daemon as app
from verdictd_py.formats.eventlog import EventLog
from verdictd_py.guest.attesters import SimulatedAttester
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.simulator import Flaw, SimulatedPlatform, TdMeasurements, collateral_json
from verdictd_py.tees.tdx import tee as tdx

RATS_TLS: Final = vector("rats-tls")
TDX: Final = vector("quotes/tdx-v4-up-to-date")
SGX: Final = vector("quotes/sgx-v3")
CAPTURED: Final = "2026-11-24T12:00:00Z"
MEMBERS: Final = [
    *("schema", "verdict", "code", "tee", "tcbStatus", "advisoryIds", "claims", "reasons"),
]

Appraise = Callable[..., Ended]


@pytest.fixture
def appraise(capfdbinary: pytest.CaptureFixture[bytes]) -> Appraise:
    """Runner of the command with `--json`."""
    return lambda *arguments: run_here(["appraise", "--json", *map(str, arguments)], capfdbinary)


def report(done: Ended, verdict: str, code: str) -> dict[str, Any]:
    """Return the report after a check of its members, of the exit status and of standard error."""
    assert done.stderr == ""
    found = done.json
    follows(found, "appraisal")
    assert list(found) == MEMBERS
    assert (found["verdict"], found["code"]) == (verdict, code)
    assert done.status == {"accepted": 0, "refused": 1}[verdict]
    for reason in found["reasons"]:
        assert list(reason) == ["rule", "measured", "expected", "text"]
    assert bool(found["reasons"]) is (verdict == "refused")
    return found


def real(folder: Path, at: str, *more: object) -> tuple[object, ...]:
    return folder / "quote.bin", "--collateral", folder / "collateral.json", "--at", at, *more


def captured(name: str, *more: object) -> tuple[object, ...]:
    trust = ("--root-ca", RATS_TLS / "root.der", "--collateral", RATS_TLS / "collateral.json")
    return RATS_TLS / f"{name}.der", *trust, "--at", CAPTURED, *more


class TestRealEvidence:
    def test_a_tdx_quote_is_accepted_at_its_time(self, appraise: Appraise) -> None:
        found = report(appraise(*real(TDX, "2025-06-20T10:16:03Z")), "accepted", "ok")
        assert (found["tee"], found["tcbStatus"], found["advisoryIds"]) == ("tdx", "UpToDate", [])
        assert found["claims"]["mrTd"].startswith("91eb2b44")
        assert found["claims"]["debug"] is False

    @pytest.mark.parametrize("at", ["2025-06-20T12:16:03+02:00", "2025-06-20T10:16:03"])
    def test_a_time_may_have_an_offset_and_is_utc_without(
        self, appraise: Appraise, at: str
    ) -> None:
        report(appraise(*real(TDX, at)), "accepted", "ok")

    @pytest.mark.parametrize(
        ("at", "said"),
        [
            ("2035-06-20T10:16:03Z", None),
            ("9999-12-31T23:59:59Z", None),
            ("0001-01-01", "check this host's clock"),
            ("2026-11-24", "collateral.json; fetch it again"),
        ],
    )
    def test_a_quote_is_not_accepted_at_another_time(
        self, appraise: Appraise, at: str, said: str | None
    ) -> None:
        """Expired evidence is refused; an expired file and a wrong clock are no verdict."""
        done = appraise(*real(TDX, at))
        if said is None:
            report(done, "refused", "evidence-expired")
        else:
            assert said in done.complaint(2, "verdictd-py appraise")

    def test_an_sgx_quote_is_appraised_by_its_tcb(self, appraise: Appraise) -> None:
        """defects.md 9: only a TCB status that the policy names is accepted."""
        arguments = real(SGX, "2025-06-20T10:56:11Z", "--verifier", "sgx")
        found = report(appraise(*arguments), "refused", "policy-refused")
        status = "ConfigurationAndSWHardeningNeeded"
        assert (found["tee"], found["tcbStatus"]) == ("sgx", status)
        assert found["advisoryIds"] == ["INTEL-SA-00289", "INTEL-SA-00615"]
        assert found["claims"]["mrSigner"]
        (reason,) = found["reasons"]
        assert (reason["rule"], reason["measured"]) == ("tcbStatus", status)
        assert reason["expected"] == "UpToDate, SWHardeningNeeded"

    def test_given_reference_data_decides(self, appraise: Appraise, tmp_path: Path) -> None:
        data = tmp_path / "data"
        pinned = {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        status = ["ConfigurationAndSWHardeningNeeded"]
        data.write_text(json.dumps({**pinned, "tcbStatus": status}))
        arguments = real(SGX, "2025-06-20T10:56:11Z", "--data", data, "--verifier", "sgx")
        report(appraise(*arguments), "accepted", "ok")
        data.write_text(json.dumps({**pinned, "tcbStatus": status, "svn": 1}))
        (reason,) = report(appraise(*arguments), "refused", "policy-refused")["reasons"]
        assert (reason["rule"], reason["measured"]) == ("svn", "0")

    def test_an_enclave_is_refused_until_a_measurement_is_pinned(
        self, appraise: Appraise, tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        values = {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        values["tcbStatus"] = ["ConfigurationAndSWHardeningNeeded"]
        data.write_text(json.dumps(values))
        arguments = real(SGX, "2025-06-20T10:56:11Z", "--data", data)
        found = report(appraise(*arguments), "refused", "policy-refused")
        assert [reason["rule"] for reason in found["reasons"]] == ["mrEnclave", "mrSigner"]
        assert "no measurement of sgx is pinned" in found["reasons"][0]["text"]
        data.write_text(json.dumps({**values, "mrSigner": [found["claims"]["mrSigner"]]}))
        report(appraise(*arguments), "accepted", "ok")

    def test_a_given_policy_decides(self, appraise: Appraise, tmp_path: Path) -> None:
        """A policy that cannot be used accepts nothing, and is no verdict (defects.md 13)."""
        policy = tmp_path / "policy.rego"
        arguments = real(TDX, "2025-06-20T10:16:03Z", "--policy", policy)
        policy.write_text("package policy\ndefault allow := false\nallow := input.debug == false\n")
        report(appraise(*arguments), "accepted", "ok")
        for text in ("package policy\n", "garbage {{{", ""):
            policy.write_text(text)
            line = appraise(*arguments).complaint(2, "verdictd-py appraise")
            assert "the policy cannot be compiled: " in line
        policy.write_text("package policy\nallow := 1\n")
        report(appraise(*arguments), "refused", "policy-refused")

    def test_reference_values_can_be_required(self, appraise: Appraise) -> None:
        arguments = real(TDX, "2025-06-20T10:16:03Z", "--require-reference-values")
        found = report(appraise(*arguments), "refused", "policy-refused")
        assert {"mrTd", "rtmr0", "rtmr1", "rtmr2"} <= {r["rule"] for r in found["reasons"]}

    def test_a_tee_without_a_chosen_verifier_is_refused(self, appraise: Appraise) -> None:
        arguments = real(TDX, "2025-06-20T10:16:03Z", "--verifier", "sgx_ecdsa")
        assert report(appraise(*arguments), "refused", "evidence-format")["tee"] == "tdx"


class TestCapturedCertificates:
    @pytest.mark.parametrize(
        "name",
        [
            "rpm-tdx-client",
            "5de6fc3-tdx-client",
            "8fbfdb6-tdx-client",
            "15724cf-tdx-client",
            "6675532-tdx-client",
            "6675532-cbor010-tdx-client",
            "6675532-cbor010-tdx-endorsements-client",
        ],
    )
    def test_every_generation_of_certificates_is_accepted(
        self, appraise: Appraise, name: str
    ) -> None:
        """defects.md 8: the measurements reach the policy."""
        found = report(appraise(*captured(name)), "accepted", "ok")
        assert (found["tee"], found["tcbStatus"]) == ("tdx", "UpToDate")
        assert len(found["claims"]["mrTd"]) == 96

    @pytest.mark.parametrize("name", ["5de6fc3-null-client", "6675532-null-client"])
    def test_a_certificate_without_evidence_is_refused(self, appraise: Appraise, name: str) -> None:
        """defects.md 7: absent evidence is never accepted."""
        found = report(appraise(*captured(name)), "refused", "evidence-missing")
        assert (found["tee"], found["tcbStatus"], found["claims"]) == (None, None, {})

    def test_endorsements_replace_missing_collateral(self, appraise: Appraise) -> None:
        file = RATS_TLS / "6675532-cbor010-tdx-endorsements-client.der"
        root = ("--root-ca", RATS_TLS / "root.der", "--at", CAPTURED)
        report(appraise(file, *root), "accepted", "ok")

    def test_a_quote_under_another_root_is_refused(
        self, appraise: Appraise, tmp_path: Path
    ) -> None:
        collateral = ("--collateral", RATS_TLS / "collateral.json", "--at", CAPTURED)
        file = RATS_TLS / "6675532-cbor010-tdx-client.der"
        report(appraise(file, *collateral), "refused", "quote-invalid")  # Intel's
        other = tmp_path / "other.pem"
        other.write_text(SimulatedPlatform.create(now=app.utc_now()).root_ca_pem)
        report(appraise(file, *collateral, "--root-ca", other), "refused", "quote-invalid")

    def test_certificate_and_root_may_be_pem(self, appraise: Appraise, tmp_path: Path) -> None:
        root = tmp_path / "root.pem"
        root.write_bytes(pem((RATS_TLS / "root.der").read_bytes()))
        for name in ("rpm-tdx-client", "6675532-tdx-client"):
            file = tmp_path / f"{name}.pem"
            file.write_bytes(b"subject=somebody\n" + pem((RATS_TLS / f"{name}.der").read_bytes()))
            _, *more = captured(name)
            report(appraise(file, *more, "--root-ca", root), "accepted", "ok")


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


class TestSimulatedGuests:
    """A new simulated platform, as for a developer without hardware."""

    @pytest.fixture
    def platform(self) -> SimulatedPlatform:
        return SimulatedPlatform.create(now=app.utc_now())

    @pytest.fixture
    def trust(self, platform: SimulatedPlatform, tmp_path: Path) -> tuple[object, ...]:
        root, collateral = tmp_path / "root.pem", tmp_path / "collateral"
        root.write_text(platform.root_ca_pem)
        collateral.mkdir()
        (collateral / "here.json").write_text(collateral_json(platform.collateral(app.utc_now())))
        return "--root-ca", root, "--collateral", collateral

    @staticmethod
    def certificate(directory: Path, platform: SimulatedPlatform, **more: Any) -> Path:
        attester = SimulatedAttester(platform, **more)
        file = directory / "guest.der"
        key = ec.generate_private_key(ec.SECP256R1())
        file.write_bytes(issue(Form.CURRENT, key=key, quote_for=attester.quote, now=app.utc_now()))
        return file

    def test_a_genuine_guest_is_accepted_now(
        self,
        appraise: Appraise,
        tmp_path: Path,
        platform: SimulatedPlatform,
        trust: tuple[object, ...],
    ) -> None:
        file = self.certificate(tmp_path, platform)
        report(appraise(file, *trust), "accepted", "ok")
        report(appraise(file, *trust, "--verifier", "tdx_ecdsa,sgx"), "accepted", "ok")

    def test_a_debug_guest_is_refused_with_all_its_claims(
        self,
        appraise: Appraise,
        tmp_path: Path,
        platform: SimulatedPlatform,
        trust: tuple[object, ...],
    ) -> None:
        """defects.md 9: debug TDs are refused; 17: the operator reads the reasons."""
        file = self.certificate(tmp_path, platform, measurements=TdMeasurements().debug())
        found = report(appraise(file, *trust), "refused", "policy-refused")
        assert found["tee"] == "tdx"
        assert found["tcbStatus"] == found["claims"]["tcbStatus"] == "UpToDate"
        assert found["claims"]["debug"] is True
        (reason,) = found["reasons"]
        assert (reason["rule"], reason["measured"], reason["expected"]) == (
            "debug",
            "true",
            "false",
        )
        assert reason["text"].startswith("debug: measured true, expected false")

    def test_a_changed_quote_is_refused_without_claims(
        self,
        appraise: Appraise,
        tmp_path: Path,
        platform: SimulatedPlatform,
        trust: tuple[object, ...],
    ) -> None:
        file = self.certificate(tmp_path, platform, flaw=Flaw.CHANGED_AFTER_SIGNING)
        found = report(appraise(file, *trust), "refused", "quote-invalid")
        assert (found["tee"], found["claims"]) == ("tdx", {})

    def test_a_raw_quote_is_appraised_without_a_binding(
        self,
        appraise: Appraise,
        tmp_path: Path,
        platform: SimulatedPlatform,
        trust: tuple[object, ...],
    ) -> None:
        file = tmp_path / "quote"
        file.write_bytes(platform.quote(bytes(range(64)), None))
        found = report(appraise(file, *trust), "accepted", "ok")
        assert found["claims"]["reportData"] == bytes(range(64)).hex()

    def test_text_output_has_the_same_verdict_as_json(
        self,
        tmp_path: Path,
        platform: SimulatedPlatform,
        trust: tuple[object, ...],
        capfdbinary: pytest.CaptureFixture[bytes],
    ) -> None:
        file = self.certificate(tmp_path, platform, measurements=TdMeasurements().debug())
        done = run_here(["appraise", str(file), *map(str, trust)], capfdbinary)
        lines = done.stdout.decode().splitlines()
        assert (done.status, lines[0]) == (1, "refused (policy-refused)")
        assert any(line.strip().startswith("debug: measured true") for line in lines)
        assert any(line.strip().startswith("mrTd: ") for line in lines)

    def test_the_installed_command_prints_only_the_report(
        self, tmp_path: Path, platform: SimulatedPlatform, trust: tuple[object, ...]
    ) -> None:
        """Also with a policy that makes the engine print: its output is discarded."""
        broken = tmp_path / "broken.rego"
        broken.write_text("package policy\nallow {{{")
        file = str(self.certificate(tmp_path, platform))
        words = ("appraise", "--json", file, *map(str, trust))
        done = run_all(
            {
                "good": Run(words),
                "broken": Run((*words, "--policy", str(broken))),
                "cannot": Run((*words, "--at", "tomorrow")),
            }
        )
        report(done["good"], "accepted", "ok")
        line = done["broken"].complaint(2, "verdictd-py appraise")
        assert "the policy cannot be compiled" in line
        line = done["cannot"].complaint(2, "verdictd-py appraise")
        assert "'tomorrow' is not a time, write 2026-11-24T12:00:00Z" in line


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        bytes(5000),
        b"\x04\x00\x02\x00\x81\x00\x00\x00" + bytes(40),
        b"\x30\x82\xff\xff" + bytes(100),
        b"\x30",
        b"-----BEGIN CERTIFICATE-----\nno base64\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAAA",
        b"-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n",
        b"\x30" * 2_000_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_file_without_evidence_is_refused(
    appraise: Appraise, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    found = report(appraise(file), "refused", "evidence-format")
    assert (found["tcbStatus"], found["claims"]) == (None, {})


class TestErrors:
    """Exit status 2, one line with a remedy, nothing on standard output."""

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["{none}"], ["/none: No such file", "check its name"]),
            (["{directory}"], ["Is a directory", "name a file"]),
            ([], ["FILE", "--help"]),
            (["{file}", "--at", "tomorrow"], ["--at", "'tomorrow' is not a time"]),
            (["{file}", "--at", "2026-13-01"], ["--at", "'2026-13-01' is not a time"]),
            (["{file}", "--collateral", "{none}"], ["/none cannot be read", "name a file"]),
            (["{file}", "--collateral", "{file}"], ["/file cannot be used"]),
            (["{file}", "--root-ca", "{file}"], ["contains no certificate", "--root-ca"]),
            (["{file}", "--root-ca", "{none}"], ["/none: No such file", "--root-ca"]),
            (["{file}", "--policy", "{none}"], ["/none: No such file"]),
            (["{file}", "--policy", "{binary}"], ["is not UTF-8 text"]),
            (["{file}", "--data", "{none}"], ["/none: No such file"]),
            (["{file}", "--verifier", "nosuch"], ["nosuch", "tdx"]),
            (["{file}", "--verifier", "nullverifier"], ["appraises nothing", "leave it out"]),
            (["{file}", "--nosuch"], ["--nosuch", "verdictd-py appraise --help"]),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_a_wrong_command_line_is_one_line(
        self, appraise: Appraise, tmp_path: Path, arguments: list[str], parts: list[str]
    ) -> None:
        places = {name: tmp_path / name for name in ("none", "directory", "file", "binary")}
        places["directory"].mkdir()
        places["file"].write_text("garbage")
        places["binary"].write_bytes(b"\xff\xfe")
        done = appraise(*(text.format_map(places) for text in arguments))
        line = done.complaint(2, "verdictd-py appraise")
        for part in parts:
            assert part in line

    def test_missing_collateral_names_the_option(self, appraise: Appraise, tmp_path: Path) -> None:
        platform = SimulatedPlatform.create(now=app.utc_now())
        root, quote = tmp_path / "root.pem", tmp_path / "quote"
        root.write_text(platform.root_ca_pem)
        quote.write_bytes(platform.quote(bytes(64), None))
        line = appraise(quote, "--root-ca", root).complaint(2, "verdictd-py appraise")
        assert "no collateral" in line
        assert line.endswith("give its collateral with --collateral")


def test_a_boots_event_log_is_replayed(appraise: Appraise, tmp_path: Path) -> None:
    boot = (command_line(b"quiet"), event(1, 0x80000007, b"action"))
    registers = EventLog(boot, tdx.REGISTERS).replay()
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    (tmp_path / "quote").write_bytes(
        platform.quote(bytes(64), TdMeasurements(**registers))  # type: ignore[arg-type]  # by name
    )
    (tmp_path / "collateral").write_text(collateral_json(platform.collateral(now)))
    (tmp_path / "root").write_text(platform.root_ca_pem)
    (tmp_path / "log").write_bytes(written(*boot))
    (tmp_path / "short").write_bytes(written(boot[0]))
    trust = ("--root-ca", tmp_path / "root", "--collateral", tmp_path / "collateral")
    words = (tmp_path / "quote", *trust, "--event-log")
    found = report(appraise(*words, tmp_path / "log"), "accepted", "ok")
    assert found["claims"]["eventLog"]["kernelCommandLine"] == "quiet"
    found = report(appraise(*words, tmp_path / "short"), "refused", "event-log")
    assert found["reasons"][0]["text"].startswith("rtmr0: the event log replays to ")
    later = {**registers, "rtmr3": b"\x33" * 48}
    (tmp_path / "quote").write_bytes(
        platform.quote(bytes(64), TdMeasurements(**later))  # type: ignore[arg-type]  # by name
    )
    found = report(appraise(*words, tmp_path / "log"), "refused", "event-log")
    assert found["reasons"][0]["text"].startswith("rtmr3: the event log replays to ")
    report(appraise(*words, tmp_path / "log", "--allow-rtmr3-mismatch"), "accepted", "ok")


def test_collateral_is_checked_as_by_the_daemon(appraise: Appraise, tmp_path: Path) -> None:
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    (tmp_path / "quote").write_bytes(platform.quote(bytes(64)))
    (tmp_path / "collateral").write_text(collateral_json(platform.collateral(now)))
    (tmp_path / "root").write_text(platform.root_ca_pem)
    trust = ("--root-ca", tmp_path / "root", "--collateral", tmp_path / "collateral")
    words = (tmp_path / "quote", *trust)
    late = ("--at", (now + timedelta(days=33)).isoformat())
    expired = f"is in {tmp_path / 'collateral'}; fetch it again"
    for grace in ((), ("--collateral-grace", "2")):
        assert expired in appraise(*words, *late, *grace).complaint(2, "verdictd-py appraise")
    report(appraise(*words, *late, "--collateral-grace", "4"), "accepted", "ok")
    report(appraise(*words, "--min-tcb-evaluation", "17"), "accepted", "ok")
    line = appraise(*words, "--min-tcb-evaluation", "18").complaint(2, "verdictd-py appraise")
    assert "the collateral is older than the required TCB recovery: 17, at least 18" in line
    for option, wrong in (
        ("--collateral-grace", "nan"),
        ("--collateral-grace", "91"),
        ("--collateral-grace", "x"),
        ("--min-tcb-evaluation", "-1"),
        ("--min-tcb-evaluation", "9" * 5000),
    ):
        assert option in appraise(*words, option, wrong).complaint(2, "verdictd-py appraise")

"""`verdictd-py policy`: checks, tests and coverage without a broker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.policy.support import POLICIES, TWO, sgx_claims, tdx_claims
from tests.support.command import Ended, Run, run_all, run_here

TDX = str(POLICIES / "tdxPolicy.rego")
HEAD = "package policy\nimport rego.v1\n"
LOOP = HEAD + (
    "n := numbers.range(1, 3000)\n"
    "allow if count([1 | some a in n; some b in n; a * b == 7.5]) > 1\n"
)

Policy = Callable[..., Ended]


@pytest.fixture
def policy(capfdbinary: pytest.CaptureFixture[bytes]) -> Policy:
    """Runner of the command in this process."""
    return lambda *words: run_here(["policy", *map(str, words)], capfdbinary)


def written(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value))
    return file


def report(tee: str, claims: dict[str, Any], **more: object) -> dict[str, object]:
    return {"verdict": "refused", "tee": tee, "claims": claims, **more}


class TestCheck:
    @pytest.mark.parametrize("name", ["tdxPolicy.rego", "sgxPolicy.rego", "releasePolicy.rego"])
    def test_a_packaged_policy_is_usable(self, policy: Policy, name: str) -> None:
        ended = policy("check", POLICIES / name, "--json")
        assert (ended.status, ended.json["usable"], ended.json["problem"]) == (0, True, "")
        assert "allow" in ended.json["rules"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("package policy\nallow {", "line 2, column "),
            (HEAD + "allow if {\n  input.x ==\n}\n", "line 5, column 1: expecting expression"),
            (HEAD + "allow if upper(input.debug) == 1\n", "the policy failed"),
            (
                HEAD + "allow if {\n  http.send({})\n  yaml.unmarshal(input.x)\n}\n",
                (
                    "http.send (absent on purpose: a policy has no network) in line 4, "
                    "yaml.unmarshal (not available yet) in line 5"
                ),
            ),
            (HEAD + 'allow if {\n  {"a": x} = input\n}\n', "line 4, column 3: an object that"),
            (HEAD + "allow if {\n  true\n   data == 1\n}\n", "line 5, column 4: a reference to"),
            ("package other\nallow := true\n", "no rule `allow` in `package policy`"),
            (LOOP, "its budget is 1,000,000,000 units of fuel"),
            (HEAD + "allow if f(1)\nf(x) if f(x + 1)\n", "nests or recurses too deeply"),
        ],
    )
    def test_a_problem_is_reported_with_its_position(
        self, policy: Policy, tmp_path: Path, text: str, said: str
    ) -> None:
        (tmp_path / "p.rego").write_text(text)
        ended = policy("check", tmp_path / "p.rego", "--tee", "tdx")
        assert (ended.status, ended.stderr) == (1, "")
        line = ended.stdout.decode()
        assert line.startswith(f"{tmp_path / 'p.rego'} cannot be used: ")
        assert said in line
        assert line.count("\n") == 1
        found = policy("check", tmp_path / "p.rego", "--tee", "tdx", "--json")
        assert said in found.json["problem"]
        assert (found.status, found.json["usable"]) == (1, False)

    def test_a_policy_is_checked_with_its_data(self, policy: Policy, tmp_path: Path) -> None:
        (tmp_path / "p.rego").write_text(HEAD + "allow if upper(data.name) == input.x\n")
        data = written(tmp_path / "data", {"name": 1})
        words = ("check", tmp_path / "p.rego", "--tee", "tdx")
        assert policy(*words).status == 0
        assert policy(*words, "--data", data).status == 1


class TestReport:
    def test_the_reasons_and_the_compared_values_are_printed(
        self, policy: Policy, tmp_path: Path
    ) -> None:
        claims = written(tmp_path / "claims.json", tdx_claims())
        data = written(tmp_path / "data", {"mrTd": [TWO]})
        ended = policy("test", TDX, claims, "--data", data)
        assert (ended.status, ended.stderr) == (1, "")
        text = ended.stdout.decode()
        assert text.startswith("verdict  refused\nallow    false\nTEE      tdx\n")
        lines = [line.split() for line in text.splitlines()]
        assert ["mismatches", '["mrTd"]'] in [line[:2] for line in lines]
        assert ["misses", "(function)", "75"] in lines
        assert ["mrTd", "1" * 96, "one", "of", TWO, "differs"] in lines
        assert ["14", "count(mismatches)", "==", "0", "1", "==", "0", "false"] in lines
        assert text.endswith(f"\nmrTd\n  measured  {'1' * 96}\n  expected  {TWO}\n            ^\n")

    @pytest.mark.parametrize("data", ["packaged", "other"])
    def test_claims_are_read_from_every_form_of_report(
        self, policy: Policy, tmp_path: Path, data: str
    ) -> None:
        file = written(tmp_path / "guest.json", report("tdx", tdx_claims(), id="x"))
        more: tuple[object, ...] = ()
        if data == "other":
            more = ("--data", written(tmp_path / "data", {"mrTd": [TWO]}))
        assert policy("test", TDX, file, *more).status == (0 if data == "packaged" else 1)

    def test_a_guest_with_invalid_evidence_is_noted(self, policy: Policy, tmp_path: Path) -> None:
        """The policy may accept the claims of a guest that the broker refuses for its evidence."""
        fault = report("tdx", tdx_claims(), code="collateral-expired")
        ended = policy("test", TDX, written(tmp_path / "guest.json", fault))
        assert ended.status == 0
        assert "note: the guest was refused for collateral-expired, whatever" in (
            ended.stdout.decode()
        )

    def test_the_floor_and_the_settings_of_the_daemon_apply(
        self, policy: Policy, tmp_path: Path
    ) -> None:
        (tmp_path / "p.rego").write_text(HEAD + "allow if true\n")
        revoked = written(tmp_path / "claims.json", tdx_claims(tcbStatus="Revoked"))
        ended = policy("test", tmp_path / "p.rego", revoked, "--json")
        assert (ended.status, ended.json["allow"], ended.json["verdict"]) == (1, True, "refused")
        good = written(tmp_path / "good.json", tdx_claims())
        assert policy("test", tmp_path / "p.rego", good).status == 0
        ended = policy("test", tmp_path / "p.rego", good, "--require-reference-values")
        assert ended.status == 1

    def test_a_tee_that_is_not_named_needs_a_pin(self, policy: Policy, tmp_path: Path) -> None:
        claims = written(tmp_path / "claims.json", sgx_claims())
        words = ("test", POLICIES / "sgxPolicy.rego", claims)
        ended = policy(*words, "--json")
        assert (ended.status, ended.json["allow"]) == (1, True)
        assert "no measurement of sgx is pinned" in ended.json["reasons"][0]["text"]
        assert policy(*words, "--verifier", "tdx,sgx").status == 0

    def test_an_expired_set_accepts_nothing(self, policy: Policy, tmp_path: Path) -> None:
        good = written(tmp_path / "good.json", tdx_claims())
        made = {"values": {"mrTd": ["1" * 96]}, "addedBy": "x", "addedAt": "2026-01-01T00:00:00Z"}
        sets = {"tdx": {"old": {**made, "expiresAt": "2026-02-01T00:00:00Z"}}}
        words = ("test", TDX, good, "--sets", written(tmp_path / "sets", sets), "--at")
        assert policy(*words, "2026-01-15T00:00:00Z").status == 0
        ended = policy(*words, "2026-03-01T00:00:00Z", "--json")
        assert ended.status == 1
        assert "(old is expired)" in ended.json["reasons"][0]["text"]

    def test_a_policy_without_an_end_refuses(self, policy: Policy, tmp_path: Path) -> None:
        (tmp_path / "p.rego").write_text(LOOP)
        good = written(tmp_path / "good.json", tdx_claims())
        ended = policy("test", tmp_path / "p.rego", good)
        assert ended.status == 1
        assert "failed   the policy takes too long: its budget is" in ended.stdout.decode()
        assert "allow  (failed)" in ended.stdout.decode()


class TestCoverage:
    def test_rules_are_counted_over_a_directory(self, policy: Policy, tmp_path: Path) -> None:
        recorded = tmp_path / "recorded"
        recorded.mkdir()
        written(recorded / "good.json", tdx_claims())
        written(recorded / "old.json", report("tdx", tdx_claims(tcbStatus="OutOfDate")))
        written(recorded / "list.json", [report("tdx", tdx_claims(mrTd=TWO))])
        written(recorded / "not-claims.txt", {})
        data = written(tmp_path / "data", {"mrTd": ["1" * 96]})
        ended = policy("test", TDX, "--coverage", recorded, "--data", data, "--json")
        assert (ended.status, ended.stderr) == (0, "")
        found = ended.json
        assert list(found) == [
            *(
                "schema",
                "guests",
                "accepted",
                "refused",
                "rules",
                "neverDecided",
                "linesNotReached",
            ),
            "problems",
        ]
        assert (found["guests"], found["accepted"], found["refused"]) == (3, 1, 2)
        rules = {rule["rule"]: rule for rule in found["rules"]}
        assert (rules["allow"]["true"], rules["allow"]["false"]) == (1, 2)
        assert (rules["tcb_accepted"]["true"], rules["tcb_accepted"]["undefined"]) == (2, 1)
        assert found["neverDecided"] == found["problems"] == []

    def test_an_undecided_rule_is_status_1(self, policy: Policy, tmp_path: Path) -> None:
        recorded = tmp_path / "recorded"
        recorded.mkdir()
        written(recorded / "good.json", tdx_claims())
        ended = policy("test", TDX, "--coverage", recorded)
        assert ended.status == 1
        text = ended.stdout.decode()
        assert "never decided      mismatches, matches" in text
        lines = [line.split() for line in text.splitlines()]
        assert ["allow", "1", "0", "0", "0", "0"] in lines

    def test_unusable_files_are_named(self, policy: Policy, tmp_path: Path) -> None:
        recorded = tmp_path / "recorded"
        recorded.mkdir()
        written(recorded / "a.json", tdx_claims())
        written(recorded / "b.json", report("tdx", {}, id="1b"))
        (recorded / "c.json").write_bytes(b"\xff")
        written(recorded / "d.json", report("sgx", {"mrEnclave": "a"}))
        written(recorded / "e.json", {"x": 1})
        (recorded / "f.json").symlink_to("gone")
        (recorded / "g.json").mkdir()
        os.mkfifo(recorded / "h.json")
        (recorded / "i.json").symlink_to("/dev/zero")
        with (recorded / "j.json").open("wb") as large:
            large.truncate(100_000_000)
        (tmp_path / "p.rego").write_text(HEAD + "allow if input.debug == false\n")
        ended = policy("test", tmp_path / "p.rego", "--coverage", recorded, "--json")
        assert (ended.status, ended.json["guests"], ended.json["neverDecided"]) == (1, 1, [])
        assert [problem["file"] for problem in ended.json["problems"]] == [
            *("b.json", "c.json", "d.json", "e.json", "j.json"),
        ]
        assert "its claims are of sgx, those of the first file of tdx" in str(ended.json)

    def test_a_looping_policy_refuses_every_guest(self, policy: Policy, tmp_path: Path) -> None:
        recorded = tmp_path / "recorded"
        recorded.mkdir()
        for name in ("a", "b"):
            written(recorded / f"{name}.json", tdx_claims())
        (tmp_path / "p.rego").write_text(LOOP)
        ended = policy("test", tmp_path / "p.rego", "--coverage", recorded, "--json")
        assert (ended.status, ended.json["refused"]) == (1, 2)
        assert ended.json["neverDecided"] == ["n", "allow"]
        for problem in ended.json["problems"]:
            assert "its budget is 1,000,000,000 units of fuel" in problem["problem"]


def test_an_error_is_one_line(policy: Policy, tmp_path: Path) -> None:
    good = written(tmp_path / "good.json", tdx_claims())
    unknown = written(tmp_path / "unknown.json", {"x": 1})
    (tmp_path / "p.rego").write_text(HEAD + "allow if input.x == 1\n")
    (tmp_path / "bad.rego").write_text("garbage")
    (tmp_path / "latin").write_bytes(b"\xff")
    (tmp_path / "nan").write_bytes(b'{"a": NaN}')
    (tmp_path / "deep").write_bytes(b'{"a":' + b"[" * 100_000)
    (tmp_path / "twice").write_bytes(b'{"a": 1, "a": 2}')
    with (tmp_path / "large").open("wb") as large:
        large.truncate(100_000_000)
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("test", TDX), "give either a file of claims, or --coverage"),
        (("test", TDX, good, "--coverage", tmp_path), "give either a file of claims, or --cov"),
        (("test", TDX, tmp_path / "gone"), "No such file or directory; check its name"),
        (("test", TDX, tmp_path), "Is a directory; name a file"),
        (("test", tmp_path / "gone", good), "No such file or directory; check its name"),
        (("test", TDX, tmp_path / "latin"), "is not UTF-8, see byte 0; record the claims again"),
        (("test", TDX, tmp_path / "nan"), "nan: the JSON has NaN"),
        (("test", TDX, tmp_path / "deep"), "deep: the JSON is nested deeper than 32 levels"),
        (("test", TDX, tmp_path / "twice"), "twice: the JSON has the member 'a' twice"),
        (("test", TDX, tmp_path / "large"), "is larger than 4194304 bytes; claims of one guest"),
        (("test", TDX, good, "--tee", "sgx"), "are of the TEE tdx, not of sgx; correct --tee"),
        (("test", TDX, good, "--tee", "abc"), "'abc'"),
        (("test", tmp_path / "p.rego", unknown), "name it: --tee tdx or sgx"),
        (("test", tmp_path / "bad.rego", good), "bad.rego: the policy cannot be compiled: line 1"),
        (("test", tmp_path / "latin", good), "is not UTF-8 text, see byte 0; check its name"),
        (("check", tmp_path / "large"), "is larger than 4194304 bytes; check the name of"),
        (("check", TDX, "--data", tmp_path / "nan"), "NaN is not a JSON number; correct it"),
        (("check", TDX, "--sets", tmp_path / "nan"), "nan: "),
        (("test", TDX, "--coverage", tmp_path / "gone"), "No such file or directory; check"),
        (("test", TDX, "--coverage", tmp_path / "empty"), "has no files *.json; record claims"),
        (("test", TDX, good, "--at", "soon"), "'soon'"),
        (("frob",), "there is no command 'policy frob'"),
        ((), "required: ACTION"),
    ):
        ended = policy(*words)
        assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, b"", 1), words
        assert ended.stderr.startswith("verdictd-py policy"), words
        assert said in ended.stderr, words


def test_standard_input_is_read(tmp_path: Path) -> None:
    claims = json.dumps(tdx_claims()).encode()
    ended = run_all(
        {
            "good": Run(("policy", "test", TDX, "-"), stdin=claims),
            "none": Run(("policy", "test", TDX, "-")),
        }
    )
    assert ended["good"].status == 0
    line = ended["none"].complaint(2, "verdictd-py policy")
    assert "standard input is not valid JSON" in line

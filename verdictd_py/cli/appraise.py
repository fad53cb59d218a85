"""`verdictd-py appraise FILE`: appraise one file offline, as the listener would."""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from verdictd_py import daemon as app
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.explanation import explain_appraisal
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, Silent, moment, read_file
from verdictd_py.config import MAX_GRACE_DAYS
from verdictd_py.documents.deciding import combine
from verdictd_py.documents.reference import MAX_DATA_BYTES, ReferenceData
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import ConfigError, EvidenceFormat, NotAppraised
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.ports import PolicyDocuments, Tees, VerifierContext
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.tees.intel.roots import read_root_ca
from verdictd_py.tees.intel.tee import VENDOR, IntelService
from verdictd_py.tees.registry import NULL_NAME, known_tees, select

MAX_FILE_BYTES: Final = 1024 * 1024
"""Parsing limits certificates and quotes to 64 KiB; the limit here is larger because of PEM."""

_DER_SEQUENCE: Final = b"\x30"  # first byte of a certificate (X.690), and of no quote


def run(argv: Sequence[str]) -> int:
    """Appraise a file; return 0 if it is accepted, 1 if it is refused.

    Raises:
        ConfigError: the file could not be appraised.
    """
    options = build_parser().parse_args(list(argv))
    data = read_file(options.file, MAX_FILE_BYTES)
    try:
        log = None if options.event_log is None else read_file(options.event_log, MAX_FILE_BYTES)
        appraisal = asyncio.run(_appraise(options, data, log))
    except NotAppraised as error:
        remedy = "" if options.collateral else "; give its collateral with --collateral"
        raise ConfigError(f"{error}{remedy}") from error
    if options.json:
        CommandOutput("appraisal", appraisal.as_json()).print(Form.JSON)
    else:
        _print(appraisal)
    return EXIT_OK if appraisal.accepted else EXIT_REFUSED


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        "verdictd-py appraise",
        "Appraise a certificate (DER or PEM) or a raw quote offline, as the listener would.",
        "exit status: 0 accepted, 1 refused, 2 could not appraise",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--verifier", metavar="NAME[,NAME]", help="(any)")
    parser.add_argument("--root-ca", metavar="FILE", type=Path, help="DER or PEM (Intel's)")
    parser.add_argument(
        "--collateral", metavar="PATH", type=Path, help="a JSON file or a directory (the guest's)"
    )
    parser.add_argument(
        "--event-log",
        metavar="FILE",
        type=Path,
        help="event log of the guest's boot (CCEL), to be replayed (none)",
    )
    parser.add_argument("--at", metavar="RFC3339", type=moment, help="appraise at this time (now)")
    parser.add_argument("--policy", metavar="FILE", type=Path, help="Rego (the packaged one)")
    parser.add_argument("--data", metavar="FILE", type=Path, help="reference values (none)")
    for name in ("--require-reference-values", "--allow-rtmr3-mismatch"):
        parser.add_argument(name, action="store_true", help="as the daemon's")
    parser.add_argument(
        "--collateral-grace", metavar="DAYS", type=_days, default=0.0, help="as the daemon's (0)"
    )
    parser.add_argument(
        "--min-tcb-evaluation", metavar="N", type=_count, default=0, help="as the daemon's (0)"
    )
    parser.add_argument("--json", action="store_true", help="output as JSON")
    add_timeout(parser)
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not 0 <= days <= MAX_GRACE_DAYS:
        raise ArgumentTypeError(f"{text!r} is not a number of days, 0 to {MAX_GRACE_DAYS}")
    return days


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is not a number, write 17")
    return int(text)


async def _appraise(options: Namespace, data: bytes, log: bytes | None) -> Appraisal:
    """Appraise as the listener does, and explain a refusal with every failed rule."""
    appraiser, policy = _appraiser(options)
    appraisal = await appraiser.appraise(partial(_evidence_with_log, data, log, appraiser.tees))
    return await explain_appraisal(policy, appraisal)


def _appraiser(options: Namespace) -> tuple[Appraiser, RegoAppraisalPolicy]:
    root = options.root_ca
    names = None if options.verifier is None else options.verifier.split(",")
    if names is not None and NULL_NAME in names:
        raise ConfigError(f"{NULL_NAME} appraises nothing; leave it out of --verifier")
    moment = options.at or app.utc_now()
    tees = known_tees(names)
    context = VerifierContext(
        clock=lambda: moment,
        events=Silent(),
        root_ca_der=None if root is None else read_root_ca(root, option="--root-ca"),
        services={
            VENDOR: IntelService(
                app.collateral_source(options.collateral),
                grace=timedelta(days=options.collateral_grace),
                minimum_evaluation=options.min_tcb_evaluation,
            )
        },
    )
    verifiers = select(names, tees, context)
    policy = RegoAppraisalPolicy(
        _Policies(tees, _text(options.policy), _text(options.data), moment),
        tees,
        pinning=Pinning(verifiers.pinned_only, options.require_reference_values),
    )
    appraiser = app.build_appraiser(
        verifiers=verifiers,
        tees=tees,
        policy=policy,
        clock=lambda: moment,
        events=Silent(),
        allow_unlogged=options.allow_rtmr3_mismatch,
    )
    return appraiser, policy


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_file(path, MAX_DATA_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; check its name") from None


class _Policies:
    """The packaged policies, or the texts the user gave for every TEE."""

    def __init__(self, tees: Tees, policy: str | None, data: str | None, now: datetime) -> None:
        self._tees = tees
        self._now = now
        self._policy = policy
        self._data = data

    async def documents(self, tee: str) -> PolicyDocuments:
        packaged = self._tees.named(tee).documents.defaults()
        policy = packaged.policy if self._policy is None else self._policy
        data = ReferenceData.parse(packaged.data if self._data is None else self._data)
        reference = combine(
            self._tees.schema(tee), "--data", data, {}, policy=policy, now=self._now
        )
        return PolicyDocuments.combine(policy, reference)


def _evidence_with_log(data: bytes, event_log: bytes | None, tees: Tees, now: datetime) -> Evidence:
    return replace(_evidence(data, tees, now), event_log=event_log)


def _evidence(data: bytes, tees: Tees, now: datetime) -> Evidence:
    """Read evidence from a certificate (PEM or DER) or a raw quote, which binds no key."""
    if len(data) > MAX_FILE_BYTES:
        raise EvidenceFormat(f"the file is larger than {MAX_FILE_BYTES} bytes")
    if b"-----BEGIN" in data[:1024]:
        data = _der_of_pem(data)
    if data.startswith(_DER_SEQUENCE):
        return certificate.read(data, tees, now=now)
    return Evidence(tees.of_evidence(data).name, data, binding=None, form="raw quote")


def _der_of_pem(data: bytes) -> bytes:
    """Decode the first PEM block; `cryptography` refuses the version of some certificates."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    _, begins, rest = data.partition(begin)
    body, ends, _ = rest.partition(end)
    if not begins or not ends:
        raise EvidenceFormat("the PEM text contains no certificate")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise EvidenceFormat("the PEM text is not base64") from None


def _print(appraisal: Appraisal) -> None:
    report = appraisal.as_json()
    print(f"{report['verdict']} ({report['code']})")
    for name in ("tee", "tcbStatus"):
        print(f"  {name}: {report[name] or 'unknown'}")
    if appraisal.evidence is not None and appraisal.evidence.advisory_ids:
        print(f"  advisoryIds: {', '.join(appraisal.evidence.advisory_ids)}")
    for reason in appraisal.reasons:
        print(f"  {reason.text}")
    if appraisal.claims:
        print("  claims:")
        for name, value in appraisal.claims.items():
            print(f"    {name}: {value}")
    sys.stdout.flush()

"""`verdictd-py policy`: checks and tests a policy offline, exactly as the daemon would."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from verdictd_py import daemon as app
from verdictd_py.broker.policytests import notes, only_guest, tee_of_claims
from verdictd_py.cli import policyreport
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import Parser, moment, read_file, read_input
from verdictd_py.documents import referencesets
from verdictd_py.documents.deciding import combine
from verdictd_py.documents.recorded import MAX_RECORDED_BYTES, RecordedClaims, read_recorded
from verdictd_py.documents.reference import MAX_DATA_BYTES, ReferenceData
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError, PolicyInvalid, RequestError
from verdictd_py.policy.coverage import PolicyCoverage
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.policy.report import outline, report, request_data
from verdictd_py.policy.trial import sample_input
from verdictd_py.ports import PolicyDocuments, Tee, Tees
from verdictd_py.tees.registry import known_tees

PROGRAM: Final = "verdictd-py policy"

MAX_FILES: Final = 100_000
"""Files in a directory of recorded claims; each file takes about a millisecond."""


def run(argv: Sequence[str]) -> int:
    """Check or test a policy; return 0 if it is usable, accepts or is covered, else 1.

    Raises:
        ConfigError, RequestError, PolicyInvalid: the policy could not be checked or tested.
    """
    options = build_parser().parse_args(list(argv))
    output = _check(options) if options.action == "check" else _test(options)
    output.print(Form.JSON if options.json else Form.TABLE)
    return output.status


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Check and test a policy without a broker, exactly as the daemon would.",
        "exit status: 0 usable, accepted or covered, 1 not, 2 wrong command line or file",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", prog=f"{PROGRAM} check", description="whether a broker could use a policy"
    )
    test = actions.add_parser(
        "test", prog=f"{PROGRAM} test", description="what a policy decides, and why"
    )
    for action in (check, test):
        action.add_argument("file", metavar="FILE", type=Path, help="the policy, Rego")
        action.add_argument(
            "--data", metavar="FILE", type=Path, help="reference data (the packaged data of --tee)"
        )
        action.add_argument("--sets", metavar="FILE", type=Path, help="referenceSets (none)")
        action.add_argument(
            "--at", metavar="RFC3339", type=moment, help="time at which sets expire (now)"
        )
        action.add_argument(
            "--tee", metavar="TEE", help="TEE of the claims, if they do not name it"
        )
        action.add_argument("--json", action="store_true", help="output as JSON")
    test.add_argument(
        "claims",
        metavar="CLAIMS",
        type=Path,
        nargs="?",
        help="claims, or the output of explain --json; - for standard input",
    )
    test.add_argument(
        "--coverage",
        metavar="DIR",
        type=Path,
        help="count what each rule decided for the recorded claims in DIR/*.json",
    )
    test.add_argument("--require-reference-values", action="store_true", help="as the daemon's")
    test.add_argument("--verifier", metavar="NAME[,NAME]", help="as the daemon's (none)")
    add_timeout(parser)
    return parser


def _check(options: Namespace) -> CommandOutput:
    tees = known_tees(_named(options))
    policy = _text(options.file, "the policy", MAX_DATA_BYTES)
    tee = tees.named(options.tee) if options.tee else tees.of_document(options.file.name)
    documents = _documents(options, policy, tee)
    try:
        compiled = CompiledPolicy.compile(documents.policy, documents.reference)
        sample = sample_input(tees, tee)
        compiled.evaluate(sample, request_data(sample, tee))
    except PolicyInvalid as error:
        return policyreport.unusable(str(options.file), str(error))
    description = outline(compiled)
    return policyreport.usable(str(options.file), description.syntax, list(description.rules))


def _test(options: Namespace) -> CommandOutput:
    if (options.claims is None) == (options.coverage is None):
        raise ConfigError("give either a file of claims, or --coverage with a directory of them")
    tees = known_tees(_named(options))
    policy = _text(options.file, "the policy", MAX_DATA_BYTES)
    if options.coverage is not None:
        coverage = _Coverage(options, tees, policy)
        for file in _files(options.coverage):
            coverage.add(file)
        return policyreport.coverage(coverage.report())
    source = "standard input" if str(options.claims) == "-" else str(options.claims)
    data = read_input(options.claims, MAX_RECORDED_BYTES)
    recorded = only_guest(read_recorded(data, source), source)
    tee = tee_of_claims(tees, recorded, options.tee or "", options.file.name)
    documents = _documents(options, policy, tee)
    result = report(
        _compiled(options, documents),
        policy,
        recorded.claims,
        tee,
        pinning=_pinning(options, tees),
    )
    result = replace(result, notes=(*notes(tees, recorded, ""), *result.notes))
    return policyreport.decision(result.as_json())


def _pinning(options: Namespace, tees: Tees) -> Pinning:
    """Return what a daemon with these settings requires of the reference data."""
    unnamed = [tee.name for tee in tees if tee.proves and not tee.served_unpinned]
    return Pinning(
        frozenset(unnamed if options.verifier is None else ()), options.require_reference_values
    )


class _Coverage:
    """Coverage by the claims in a directory, all of the TEE of its first usable file.

    Attributes:
        problems: files that could not be used, or whose evaluation failed.
    """

    def __init__(self, options: Namespace, tees: Tees, policy: str) -> None:
        self.problems: list[dict[str, JsonValue]] = []
        self._options = options
        self._tees = tees
        self._policy = policy
        self._guests = 0
        self._counted: tuple[Tee | None, PolicyCoverage] | None = None

    def add(self, file: Path) -> None:
        """Count the guests of one file.

        Raises:
            ConfigError: the policy or its data cannot be used.
        """
        try:
            guests = read_recorded(read_file(file, MAX_RECORDED_BYTES), "the file")
        except (RequestError, ConfigError) as error:
            self.problems.append({"file": file.name, "problem": str(error)})
            return
        for recorded in guests:
            try:
                self._add(recorded)
            except (RequestError, PolicyInvalid) as error:
                self.problems.append({"file": file.name, "problem": str(error)})

    def _add(self, recorded: RecordedClaims) -> None:
        options = self._options
        tee = tee_of_claims(self._tees, recorded, options.tee or "", options.file.name)
        if self._counted is None:
            compiled = _compiled(options, _documents(options, self._policy, tee))
            self._counted = tee, PolicyCoverage(compiled, pinning=_pinning(options, self._tees))
        first, counted = self._counted
        if first is not tee:
            names = ["no TEE" if item is None else item.name for item in (tee, first)]
            raise RequestError(
                f"its claims are of {names[0]}, those of the first file of {names[1]}; "
                "use one directory for each TEE"
            )
        self._guests += 1
        counted.add(recorded.claims, tee)

    def report(self) -> dict[str, JsonValue]:
        """Return the members of `--coverage --json`.

        Raises:
            ConfigError: no claims could be used.
        """
        directory = self._options.coverage
        if self._counted is None and not self.problems:
            raise ConfigError(
                f"{directory} has no files *.json; record claims there (verdict-py explain --json)"
            )
        if self._counted is None:
            first = self.problems[0]
            raise ConfigError(
                f"{directory} has no usable claims; {first['file']}: {first['problem']}"
            )
        problems: list[JsonValue] = [*self.problems]
        return {"guests": self._guests, **self._counted[1].as_json(), "problems": problems}


def _files(directory: Path) -> Iterator[Path]:
    """Return the regular files `*.json` of a directory in the order of their names."""
    try:
        names = sorted(file.name for file in directory.iterdir() if file.suffix == ".json")
    except OSError as error:
        raise ConfigError(f"cannot read {directory}: {error.strerror}; check its name") from error
    if len(names) > MAX_FILES:
        raise ConfigError(f"{directory} has more than {MAX_FILES} files *.json; use fewer")
    return (file for name in names if (file := directory / name).is_file())


def _compiled(options: Namespace, documents: PolicyDocuments) -> CompiledPolicy:
    try:
        return CompiledPolicy.compile(documents.policy, documents.reference)
    except PolicyInvalid as error:
        raise ConfigError(f"{options.file}: {error}; correct it") from error


def _documents(options: Namespace, policy: str, tee: Tee | None) -> PolicyDocuments:
    """Return the policy and the reference data that it reads, with the named sets in force.

    Raises:
        PolicyInvalid: the data cannot be used; the message names the file.
    """
    data = "{}" if tee is None else tee.documents.defaults().data
    if options.data is not None:
        data = _text(options.data, "the reference data", MAX_DATA_BYTES)
    sets: referencesets.Sets = {}
    if options.sets is not None:
        text = _text(options.sets, "the sets", MAX_DATA_BYTES)
        try:
            sets = referencesets.parse(text).get("" if tee is None else tee.name, {})
        except RequestError as error:
            raise ConfigError(f"{options.sets}: {error}") from error
    now = options.at or app.utc_now()
    try:
        reference = ReferenceData.parse(data)
        if tee is not None:
            schema, name = tee.reference_schema(), tee.documents.data
            reference = combine(schema, name, reference, sets, policy=policy, now=now)
        return PolicyDocuments.combine(policy, reference)
    except PolicyInvalid as error:
        raise ConfigError(f"{options.data}: {error}; correct it") from error


def _text(file: Path, what: str, limit: int) -> str:
    data = read_file(file, limit)
    if len(data) > limit:
        raise ConfigError(f"{file} is larger than {limit} bytes; check the name of {what}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text, see byte {error.start}; check its name"
        ) from None


def _named(options: Namespace) -> Sequence[str]:
    """Return the TEEs that the command line names; other packages may provide them."""
    verifiers = getattr(options, "verifier", None)
    return [
        *(() if options.tee is None else (options.tee,)),
        *(() if verifiers is None else verifiers.split(",")),
    ]

"""`verdictd-py collateral`: fetches, displays and verifies collateral for air-gapped sites."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from verdictd_py import config
from verdictd_py import daemon as app
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import (
    EXIT_OK,
    EXIT_REFUSED,
    Parser,
    complain,
    moment,
    printable,
    read_file,
)
from verdictd_py.daemon.http import collateral_get, http_client, site_proxies
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.errors import AttestationError, CollateralUnavailable, ConfigError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import Validity, check_collateral
from verdictd_py.tees.intel.collateral.forms import collaterals_from_json, collaterals_to_json
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.sources import MAX_COLLATERAL_BYTES, platform_of
from verdictd_py.tees.intel.pck import verify_pck_chain
from verdictd_py.tees.intel.quote import TEES, parse_quote
from verdictd_py.tees.intel.roots import read_root_ca

PROGRAM: Final = "verdictd-py collateral"
_SERVICE: Final = (
    "collateral_url",
    "collateral_ca",
    "collateral_pin",
    "collateral_proxy",
    "collateral_api_key_file",
    "collateral_update",
)


def run(argv: Sequence[str]) -> int:
    """Run an action; return 0 when it is done, 1 if collateral does not verify.

    Raises:
        ConfigError: collateral cannot be fetched, read or written.
    """
    options = build_parser().parse_args(list(argv))
    root = None if options.root_ca is None else read_root_ca(options.root_ca, option="--root-ca")
    root_key = root_key_digest(root)
    if options.action == "fetch":
        return asyncio.run(_fetch(options, root_key))
    now = options.at or app.utc_now()
    rows = [
        {"file": str(file), **_row(collateral, root_key, now)}
        for file in options.files
        for collateral in _read(file)
    ]
    if options.json:
        CommandOutput("collateral-list", rows).print(Form.JSON)
    else:
        for row in rows:
            text = "  ".join(f"{name}={value}" for name, value in row.items() if value != "")
            print(printable(text.replace("\n", " ")))
    invalid = any(row["problem"] for row in rows)
    return EXIT_REFUSED if invalid and options.action == "verify" else EXIT_OK


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Fetch collateral into a file, display it and verify it. A daemon at an air-gapped site\n"
        "reads the file: verdictd-py --collateral FILE.",
        "exit status: 0 done, 1 collateral does not verify, 2 wrong command line, or no answer",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", prog=f"{PROGRAM} fetch", description="from PCS or a PCCS")
    add = fetch.add_argument
    add("--fmspc", metavar="HEX[,HEX]", type=_fmspcs, default=(), help="platform types")
    add("--quote", metavar="FILE", type=Path, action="append", default=[], help="of a platform")
    add("--tee", choices=TEES, default=TEES[0], help="TEE of --fmspc (%(default)s)")
    authorities = ("platform", "processor")
    add("--ca", choices=authorities, default="platform", help="CA of the PCK (%(default)s)")
    add("--output", metavar="FILE", type=Path, required=True, help="file to write")
    for name in _SERVICE:
        option = "--" + name.replace("_", "-")
        fetch.add_argument(option, metavar="VALUE", help="as the daemon's")
    for name, text in (("show", "display files"), ("verify", "verify files")):
        command = actions.add_parser(name, prog=f"{PROGRAM} {name}", description=text)
        command.add_argument("files", metavar="FILE", type=Path, nargs="+")
        command.add_argument("--at", metavar="RFC3339", type=moment, help="at this time (now)")
        command.add_argument("--json", action="store_true")
    for action in actions.choices.values():
        action.add_argument("--root-ca", metavar="FILE", type=Path, help="DER or PEM (Intel's)")
    add_timeout(parser)
    return parser


def _fmspcs(text: str) -> tuple[str, ...]:
    fmspcs = tuple(part.strip().lower() for part in text.split(","))
    for fmspc in fmspcs:
        if len(fmspc) != 12 or any(c not in "0123456789abcdef" for c in fmspc):
            raise ArgumentTypeError(f"{fmspc!r} is not an FMSPC: write 12 hex digits")
    return fmspcs


def _read(file: Path) -> tuple[Collateral, ...]:
    try:
        text = read_file(file, MAX_COLLATERAL_BYTES)
        if len(text) > MAX_COLLATERAL_BYTES:
            raise ValueError(f"it is larger than {MAX_COLLATERAL_BYTES} bytes")
        return collaterals_from_json(text)
    except ValueError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{file} is not collateral: {problem}; fetch it again") from error


def _row(collateral: Collateral, root_key: bytes, now: datetime) -> dict[str, Any]:
    """Return one set of collateral as it is displayed: platform type, validity and problem."""
    try:
        request = platform_of(collateral)
        info = json.loads(collateral.tcb_info)
    except ValueError as error:
        return {"problem": f"it does not name its platform type: {error}"}
    row: dict[str, Any] = {
        "tee": request.tee,
        "fmspc": request.fmspc,
        "ca": request.ca,
        "issued": str(info.get("issueDate", "")),
        "until": str(info.get("nextUpdate", "")),
        "evaluation": info.get("tcbEvaluationDataNumber", ""),
        "problem": "",
    }
    try:
        validity = check_collateral(collateral, request, root_key=root_key, now=now)
        row["until"] = validity.end.isoformat()
    except AttestationError as error:
        row["problem"] = "; ".join(reason.text for reason in error.reasons)
    except CollateralUnavailable as error:  # this host's clock, or --at
        row["problem"] = str(error)
    return row


async def _fetch(options: Namespace, root_key: bytes) -> int:
    requests = [CollateralRequest(options.tee, fmspc, options.ca) for fmspc in options.fmspc]
    requests += [_request_of(file, root_key) for file in options.quote]
    if not requests:
        raise ConfigError("no platform type is given: add --fmspc HEX or --quote FILE")
    service_options = {name: value for name in _SERVICE if (value := getattr(options, name))}
    settings = config.load(service_options, file=None)
    if warning := site_proxies(settings).warning:
        complain(PROGRAM, warning)
    collaterals: list[Collateral] = []
    async with http_client(settings) as client:
        service = Pcs(
            collateral_get(client, settings),
            settings.collateral_url,
            root_key=root_key,
            update=settings.collateral_update,
        )
        for request in dict.fromkeys(requests):
            try:
                collateral, _ = await service.fetch(request, partial(_check, request, root_key))
            except CollateralUnavailable as error:
                problem = await asyncio.to_thread(_wrong_server, settings)
                hint = "" if "--collateral-" in str(error) else "; check --collateral-url"
                text = problem or f"{error}{hint}"
                raise ConfigError(f"FMSPC {request.fmspc}: {text}") from error
            except AttestationError as error:
                complain(PROGRAM, f"FMSPC {request.fmspc}: {error}; nothing is written")
                return EXIT_REFUSED
            collaterals.append(collateral)
    try:
        # The last step, so that a failure leaves an older file unchanged.
        options.output.write_text(collaterals_to_json(collaterals))
    except OSError as error:
        raise ConfigError(
            f"cannot write {options.output}: {error.strerror}; check --output"
        ) from error
    print(f"{options.output}: {len(collaterals)} platform types")
    return EXIT_OK


def _wrong_server(settings: config.Settings) -> str:
    """Return a sentence about the first service if another kind of server is at its URL."""
    url = next(iter(settings.collateral_url), "")
    if not url or site_proxies(settings).of(url) is not None:
        return ""
    from verdictd_py.cli.wrongserver import of_collateral_service  # noqa: PLC0415  # it loads gRPC

    return of_collateral_service(url)


def _check(request: CollateralRequest, root_key: bytes, collateral: Collateral) -> Validity:
    return check_collateral(collateral, request, root_key=root_key, now=app.utc_now())


def _request_of(file: Path, root_key: bytes) -> CollateralRequest:
    """Return the platform type of a quote whose PCK chain leads to the root."""
    try:
        quote = parse_quote(read_file(file, MAX_QUOTE_BYTES))
        platform = verify_pck_chain(quote.pck_chain, root_key=root_key, now=app.utc_now())
    except AttestationError as error:
        text = "; ".join(reason.text for reason in error.reasons)
        raise ConfigError(f"{file} names no platform: {text}") from error
    return CollateralRequest(quote.tee, platform.fmspc, platform.ca)

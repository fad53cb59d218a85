"""Where collateral comes from: the operator's files, the guest's own certificate.

What comes from here is only looked up, never believed: the verifier checks every
signature and date of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from verdictd_py.domain.events import CollateralUnreadable, WarningCollateral
from verdictd_py.errors import CollateralUnavailable, ConfigError, QuoteInvalid, Reason, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import Events
from verdictd_py.tees.intel.collateral.forms import (
    MAX_COLLATERAL_SETS,
    collaterals_from_json,
    parsed,
)
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.quote import SGX, TDX
from verdictd_py.tees.intel.tcb import evaluation_number

MAX_COLLATERAL_BYTES: Final = 32 * 1024 * 1024  # one file; each platform type is about 60 KiB


def platform_of(collateral: Collateral) -> CollateralRequest:
    """Which platforms collateral says it is for; nothing is verified.

    Raises:
        ValueError: it does not say so.
    """
    return _index(collateral).request


@dataclass(frozen=True, slots=True)
class _Entry:
    """Collateral with what it is for, and how recent it is."""

    request: CollateralRequest
    recency: tuple[int, str]
    collateral: Collateral = field(repr=False)


def _index(collateral: Collateral) -> _Entry:
    """Reads off the collateral which platforms it is for.

    Raises:
        ValueError: it does not say so.
    """
    info: Any = parsed(collateral.tcb_info)
    try:
        tee = {"TDX": TDX, "SGX": SGX}[info.get("id", "SGX")]  # version 2 has no id
        fmspc = bytes.fromhex(info["fmspc"]).hex()
        issued = str(info["issueDate"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("tcb_info does not name TEE, FMSPC and issue date") from error
    try:
        issuer = x509.load_der_x509_crl(collateral.pck_crl).issuer
    except ValueError:
        raise ValueError("pck_crl is no revocation list in DER") from None
    names = [str(name.value).lower() for name in issuer.get_attributes_for_oid(NameOID.COMMON_NAME)]
    cas = [ca for ca in ("processor", "platform") if any(ca in name for name in names)]
    if len(cas) != 1:
        raise ValueError("pck_crl is issued neither by the processor nor by the platform CA")
    request = CollateralRequest(tee=tee, fmspc=fmspc, ca=cas[0])
    return _Entry(request, (evaluation_number(collateral), issued), collateral)


Inspect = Callable[[CollateralRequest, Collateral], str]
"""What is wrong with a set by itself, signatures and dates; empty where nothing is."""


class FileCollateral:
    """Collateral from one file, or from all `*.json` of a directory.

    Changes on disk are noticed at the next request, by a `stat` of each file. Where they
    cannot be read, what was read before is served on (until it expires) and the event
    `collateral.unreadable` is recorded.

    Args:
        path: file or directory. An empty directory is allowed: it may be filled later.
        events: where to record an unreadable change.
        inspect: looks at every set that is read. What it finds is recorded as
            `warning.collateral`, and the set is kept: ended collateral may have a grace, and
            a revocation must be found by the verifier, not become an absence.

    Raises:
        ConfigError: a file cannot be read or used; it is named.
    """

    def __init__(
        self, path: Path, *, events: Events | None = None, inspect: Inspect | None = None
    ) -> None:
        self._path = path
        self._events = events
        self._inspect = inspect
        self._seen = self._look()
        self._entries = self._load()

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """The operator's collateral for a platform, the most recent first.

        Raises:
            CollateralUnavailable: there is none.
        """
        del endorsements  # chosen by the guest: another source's business
        self._refresh()
        found = sorted(
            (entry for entry in self._entries if entry.request == request),
            key=lambda entry: entry.recency,
            reverse=True,
        )
        if not found:
            raise CollateralUnavailable(f"there is no collateral for {_platform(request)}")
        return tuple(entry.collateral for entry in found)

    def _refresh(self) -> None:
        """Reads everything again where anything has changed."""
        try:
            seen = self._look()
            if seen == self._seen:
                return
            self._seen = seen
            self._entries = self._load()
        except ConfigError as error:
            if self._events is not None:
                self._events.record(CollateralUnreadable(problem=str(error)))

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            return sorted(self._path.glob("*.json"))
        return [self._path]

    def _look(self) -> Mapping[Path, tuple[int, int, int]]:
        """What tells that a file has changed, for every file."""
        try:
            files = self._files()
            if len(files) > MAX_COLLATERAL_SETS:
                raise ConfigError(
                    f"{self._path} holds more than {MAX_COLLATERAL_SETS} collateral files; "
                    "remove those of platforms you do not have"
                )
            stats = {file: file.stat() for file in files}
        except OSError as error:
            raise ConfigError(
                f"collateral {self._path} cannot be read: {error.strerror or error}; "
                "name a file or a directory of JSON files that the broker may read"
            ) from error
        return {file: (at.st_mtime_ns, at.st_size, at.st_ino) for file, at in stats.items()}

    def _load(self) -> tuple[_Entry, ...]:
        return tuple(entry for file in self._seen for entry in self._load_file(file))

    def _load_file(self, file: Path) -> tuple[_Entry, ...]:
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_COLLATERAL_BYTES + 1)
            if len(text) > MAX_COLLATERAL_BYTES:
                raise ValueError(f"it is larger than {MAX_COLLATERAL_BYTES} bytes")
            entries = tuple(_index(each) for each in collaterals_from_json(text))
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError as error:
            problem = " ".join(str(error).split())
        else:
            self._warn(file, entries)
            return entries
        raise ConfigError(
            f"collateral file {file} cannot be used: {problem}; fetch it again or remove it"
        )

    def _warn(self, file: Path, entries: tuple[_Entry, ...]) -> None:
        if self._events is None or self._inspect is None:
            return
        for entry in entries:
            if problem := self._inspect(entry.request, entry.collateral):
                about = _platform(entry.request)
                self._events.record(WarningCollateral(file=str(file), about=about, problem=problem))


class EndorsementsOnly:
    """Collateral that the guest brought along: signed by Intel, but chosen by the guest.

    Never cached, never given to another guest.
    """

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """The guest's own.

        Raises:
            CollateralUnavailable: it brought none.
        """
        if endorsements is None:
            raise CollateralUnavailable(
                f"the broker has no collateral for {_platform(request)} and the guest brought none"
            )
        return (endorsements,)


class FirstAnswer:
    """Several sources, asked in order: a later one only if none before it answers.

    The usual one: `FirstAnswer(FileCollateral(path), EndorsementsOnly())`.
    """

    def __init__(self, *sources: CollateralSource) -> None:
        self._sources = sources

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """The first answer.

        Raises:
            CollateralUnavailable: no source has any; what the last one said.
        """
        last = CollateralUnavailable(f"there is no collateral for {_platform(request)}")
        for source in self._sources:
            try:
                return await source.candidates(request, endorsements)
            except CollateralUnavailable as error:
                last = error
        raise last


class EvaluationFloor:
    """Highest TCB evaluation number seen in verified collateral, for each platform type.

    A guest could otherwise bring collateral of before the last recovery of the TCB that is
    still within its validity, and be rated better than it is. Kept in memory; only what
    Intel signed is counted, so no guest can raise it or fill it at will.
    """

    def __init__(self) -> None:
        self._highest: dict[CollateralRequest, int] = {}

    def check(self, request: CollateralRequest, number: int, *, chosen_by_guest: bool) -> None:
        """Counts verified collateral, and refuses what a guest chose too old.

        Raises:
            QuoteInvalid: chosen by the guest, and below what was seen before.
        """
        highest = self._highest.get(request, 0)
        if chosen_by_guest and number < highest:
            text = (
                "the collateral that the guest brought along is older than collateral seen before"
            )
            reason = Reason(
                "tcb-info",
                str(number),
                f"at least {highest}",
                text,
                kind=ReasonKind.COLLATERAL,
            )
            raise QuoteInvalid(text, reasons=(reason,))
        self._highest[request] = max(highest, number)


def _platform(request: CollateralRequest) -> str:
    return f"{request.tee} platforms of FMSPC {request.fmspc} ({request.ca} CA)"

"""Sources of collateral: the operator's files, and the guest's certificate.

A source only looks collateral up: the verifier verifies every signature and date in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography.x509.oid import NameOID

from verdictd_py.domain.events import CollateralUnreadable, WarningCollateral
from verdictd_py.errors import CollateralUnavailable, ConfigError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import Events
from verdictd_py.tees.intel.collateral.forms import (
    MAX_COLLATERAL_SETS,
    collaterals_from_json,
    parsed,
)
from verdictd_py.tees.intel.collateral.parsed import read_crl
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.quote import SGX, TDX
from verdictd_py.tees.intel.tcb import evaluation_number

MAX_COLLATERAL_BYTES: Final = 32 * 1024 * 1024  # one file; each platform type is about 60 KiB


def platform_of(collateral: Collateral) -> CollateralRequest:
    """Return the platform type that collateral names; nothing is verified.

    Raises:
        ValueError: it names none.
    """
    return _index(collateral).request


@dataclass(frozen=True, slots=True)
class _Entry:
    """Collateral with its platform type and how recent it is."""

    request: CollateralRequest
    recency: tuple[int, str]
    collateral: Collateral = field(repr=False)
    file: Path | None = None


def _index(collateral: Collateral) -> _Entry:
    """Read platform type and recency from collateral.

    Raises:
        ValueError: it does not contain them.
    """
    info: Any = parsed(collateral.tcb_info)
    try:
        tee = {"TDX": TDX, "SGX": SGX}[info.get("id", "SGX")]  # version 2 has no id
        fmspc = bytes.fromhex(info["fmspc"]).hex()
        issued = str(info["issueDate"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("tcb_info does not name TEE, FMSPC and issue date") from error
    try:
        issuer = read_crl(collateral.pck_crl).issuer
    except (ValueError, TypeError):  # TypeError: a name with a value of another type
        raise ValueError("pck_crl is not a revocation list in DER") from None
    names = [str(name.value).lower() for name in issuer.get_attributes_for_oid(NameOID.COMMON_NAME)]
    cas = [ca for ca in ("processor", "platform") if any(ca in name for name in names)]
    if len(cas) != 1:
        raise ValueError("pck_crl is issued neither by the processor nor by the platform CA")
    request = CollateralRequest(tee=tee, fmspc=fmspc, ca=cas[0])
    return _Entry(request, (evaluation_number(collateral), issued), collateral)


Inspect = Callable[[CollateralRequest, Collateral], str]
"""Check of a set's signatures and dates; it returns the problem, empty if there is none."""


class FileCollateral:
    """Collateral from one file, or from all `*.json` of a directory.

    Each request checks for changed files with `stat`. If a changed file cannot be read, the
    old content stays in use until it expires, and the event `collateral.unreadable` is
    recorded.

    Args:
        path: file or directory. An empty directory is allowed: it may be filled later.
        events: records unreadable changes.
        changed: called after changed files were read.
        inspect: checks every set that is read. A problem is recorded as `warning.collateral`,
            and the set is still used: expired collateral may have a grace period, and the
            verifier must see a revocation instead of missing collateral.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """

    def __init__(
        self,
        path: Path,
        *,
        events: Events | None = None,
        inspect: Inspect | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._path = path
        self._events = events
        self._inspect = inspect
        self._states = self._file_states()
        self._entries = self._load()
        self._by_request = _grouped(self._entries)

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Return the operator's collateral for a platform type, the most recent first.

        Raises:
            CollateralUnavailable: there is none.
        """
        del endorsements  # another source returns them
        self._refresh()
        matching = self._by_request.get(request)
        if matching is None:
            raise CollateralUnavailable(f"there is no collateral for {_platform(request)}")
        return matching

    def sets(self) -> tuple[tuple[CollateralRequest, Collateral], ...]:
        """Return the newest set of each platform type."""
        return tuple((request, sets[0]) for request, sets in self._by_request.items())

    def remedy(self, request: CollateralRequest) -> str:
        newest = max(
            (entry for entry in self._entries if entry.request == request),
            key=lambda entry: entry.recency,
            default=None,
        )
        if newest is None:
            return (
                f"{self._path} has no collateral for {_platform(request)}; fetch it "
                "(verdictd-py collateral fetch)"
            )
        return (
            f"the newest collateral for {_platform(request)} is in {newest.file}; fetch it again "
            "(verdictd-py collateral fetch)"
        )

    def _refresh(self) -> None:
        """Read all files again if one has changed."""
        try:
            states = self._file_states()
            if states == self._states:
                return
            self._states = states
            self._entries = self._load()
            self._by_request = _grouped(self._entries)
            self._changed()
        except ConfigError as error:
            if self._events is not None:
                self._events.record(CollateralUnreadable(problem=str(error)))

    def _statuses(self) -> Mapping[Path, os.stat_result]:
        status = os.stat(self._path)  # noqa: PTH116  # in half of the time, for each guest
        if not stat.S_ISDIR(status.st_mode):
            return {self._path: status}
        files = sorted(self._path.glob("*.json"))
        self._require_few(files)
        return {file: file.stat() for file in files}

    def _require_few(self, files: Sequence[Path]) -> None:
        if len(files) > MAX_COLLATERAL_SETS:
            raise ConfigError(
                f"{self._path} has more than {MAX_COLLATERAL_SETS} collateral files; "
                "remove those for platforms you do not have"
            )

    def _file_states(self) -> Mapping[Path, tuple[int, int, int]]:
        """Return modification time, size and inode of every file."""
        try:
            stats = self._statuses()
        except OSError as error:
            raise ConfigError(
                f"collateral {self._path} cannot be read: {error.strerror or error}; "
                "name a file or a directory of JSON files that the broker may read"
            ) from error
        return {
            file: (status.st_mtime_ns, status.st_size, status.st_ino)
            for file, status in stats.items()
        }

    def _load(self) -> tuple[_Entry, ...]:
        return tuple(entry for file in self._states for entry in self._load_file(file))

    def _load_file(self, file: Path) -> tuple[_Entry, ...]:
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_COLLATERAL_BYTES + 1)
            if len(text) > MAX_COLLATERAL_BYTES:
                raise ValueError(f"it is larger than {MAX_COLLATERAL_BYTES} bytes")
            entries = tuple(
                replace(_index(collateral), file=file) for collateral in collaterals_from_json(text)
            )
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


def _grouped(entries: Sequence[_Entry]) -> dict[CollateralRequest, tuple[Collateral, ...]]:
    """Return the collateral of each platform type, the most recent first."""
    grouped: dict[CollateralRequest, tuple[Collateral, ...]] = {}
    for entry in sorted(entries, key=lambda entry: entry.recency, reverse=True):
        grouped[entry.request] = (*grouped.get(entry.request, ()), entry.collateral)
    return grouped


class EndorsementsOnly:
    """Collateral that the guest sent: signed by Intel, but chosen by the guest.

    It is neither cached nor used for another guest.
    """

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Return the guest's own collateral.

        Raises:
            CollateralUnavailable: it sent none.
        """
        if endorsements is None:
            raise CollateralUnavailable(
                f"the broker has no collateral for {_platform(request)} and the guest sent none"
            )
        return (endorsements,)

    def remedy(self, request: CollateralRequest) -> str:
        del request  # no source of the operator's could have better collateral
        return ""


class FirstAnswer:
    """Collateral of the first of several sources that has some.

    Usually `FirstAnswer(FileCollateral(path), EndorsementsOnly())`.
    """

    def __init__(self, *sources: CollateralSource) -> None:
        self.sources = sources

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Return the collateral of the first source that has some.

        Raises:
            CollateralUnavailable: no source has any; the text is that of the last one.
        """
        last = CollateralUnavailable(f"there is no collateral for {_platform(request)}")
        for source in self.sources:
            try:
                return await source.candidates(request, endorsements)
            except CollateralUnavailable as error:
                last = error
        raise last

    def remedy(self, request: CollateralRequest) -> str:
        return next(filter(None, (source.remedy(request) for source in self.sources)), "")


def _platform(request: CollateralRequest) -> str:
    return f"{request.tee} platforms of FMSPC {request.fmspc} ({request.ca} CA)"

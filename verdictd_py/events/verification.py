"""Verification of audit files: each by its chain, and all of them by what they state of each other.

A *problem* is a sign that files were changed after they were written. A *remark* is not, but an
auditor should know it. What the verification can prove is in `docs/audit.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from verdictd_py.events.heads import HeadVerifier
from verdictd_py.events.loggedheads import LoggedHead
from verdictd_py.events.opening import COMPRESSED
from verdictd_py.events.scan import Head, Scan
from verdictd_py.events.statements import State, Statement
from verdictd_py.events.trailfile import HEAD_RECORDS


@dataclass(frozen=True, slots=True)
class Findings:
    """Result of a verification.

    Attributes:
        problems: signs of a change, each in one line that begins with the name of a file.
        remarks: other lines for the auditor.
        signed: number of records that good signatures cover, by file; empty without keys.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    signed: dict[str, int] = field(default_factory=dict)


def verified(
    scans: Sequence[Scan],
    *,
    complete: bool,
    keys: Sequence[HeadVerifier] = (),
    expected: Sequence[str] = (),
    logged: Sequence[LoggedHead] = (),
    stopped: bool = False,
) -> Findings:
    """Compare files with each other, with the keys, and with expected heads.

    Args:
        complete: whether these are all files of a directory, so that a missing one is a problem.
        keys: public keys of the heads.
        expected: digests that must occur.
        logged: heads of a log, which the files must have.
        stopped: whether no broker writes the files, so that their ends must be signed as well.
    """
    return _Verification(scans, complete, keys, expected, logged, stopped=stopped).findings()


class _Verification:
    def __init__(
        self,
        scans: Sequence[Scan],
        complete: bool,
        keys: Sequence[HeadVerifier],
        expected: Sequence[str],
        logged: Sequence[LoggedHead],
        *,
        stopped: bool,
    ) -> None:
        self._scans = scans
        self._stopped = stopped
        self._complete = complete
        self._keys = keys
        self._expected = expected
        self._logged = logged
        self._by_name: dict[str, Scan] = {}
        self._own: dict[str, int] = {}  # records that the file's own heads cover, by name
        self._problems: list[str] = []
        self._missing = False
        self._remarks: list[str] = []

    def findings(self) -> Findings:
        for scan in self._scans:
            self._add(scan)
        stated = list(self._stated())
        self._pruned = {s.name: s for s in self._prunings()}
        self._ends = {s.name: s for _, s in stated if s.state is State.ENDED}
        for scan in self._scans:
            self._check_end(scan)
        for source, statement in dict.fromkeys(stated):
            self._check(source, statement)
        if self._complete:
            self._check_named({statement.name for _, statement in stated})
        found = {digest for scan in self._scans for digest in scan.expected}
        for digest in self._expected:
            if digest not in found:
                self._problems.append(
                    f"no record has the digest {digest}: the trail was cut or written again"
                )
        for head in self._logged:
            self._check_logged(head)
        signed = self._check_signatures() if self._keys else {}
        return Findings(
            tuple(dict.fromkeys(self._problems)), tuple(dict.fromkeys(self._remarks)), signed
        )

    def _stated(self) -> Iterator[tuple[str, Statement]]:
        for scan in self._scans:
            for _, statement in scan.statements:
                yield scan.name, statement

    def _prunings(self) -> Iterator[Statement]:
        """Yield what is proved about pruned files.

        With keys, a head of the same file must cover the record, as the broker writes it: a later
        file states the end of a file as it finds it, whatever program wrote that.
        """
        for scan in self._scans:
            signed = self._own.get(scan.name, 0)
            for index, statement in scan.statements:
                if statement.state is State.PRUNED and (index < signed or not self._keys):
                    yield statement

    def _add(self, scan: Scan) -> None:
        other = self._by_name.get(scan.name)
        if other is not None:
            self._compare_copies(scan, other)
        if other is None or scan.records > other.records:
            self._by_name[scan.name] = scan
            self._own[scan.name] = self._signed_by_itself(scan)
        if scan.problem:
            self._problems.append(f"{scan.path}: {scan.problem}")
        self._remarks += [f"{scan.path}: {remark}" for remark in scan.remarks]
        if scan.path.name.removesuffix(COMPRESSED) != scan.name:
            line = f"{scan.path}: has the records of {scan.name}"
            (self._problems if self._complete else self._remarks).append(line)

    def _compare_copies(self, one: Scan, other: Scan) -> None:
        records = min(one.records, other.records)
        if one.digest_at(records) == other.digest_at(records):
            self._remarks.append(f"{one.path} and {other.path} are copies of one file")
        else:
            self._problems.append(f"{one.path}: differs from {other.path}, which has its name")

    def _check_end(self, scan: Scan) -> None:
        if not scan.partial:
            return
        end = self._ends.get(scan.name)
        if end is not None and (end.records, end.partial) == (scan.records, scan.partial):
            self._remarks.append(f"{scan.path}: its writer was killed while it wrote a record")
        else:
            self._problems.append(
                f"{scan.path}: line {scan.records + 1} has no end: the file was cut"
            )

    def _check(self, source: str, statement: Statement) -> None:
        """Compare what a file states about another one with that file."""
        name, state = statement.name, statement.state
        scan = self._by_name.get(name)
        if state is State.PRUNED:
            if scan is not None and scan.digest != statement.digest:
                self._problems.append(f"{scan.path}: is not the file that was pruned ({source})")
            return
        if scan is None:
            if self._complete and not self._is_pruned(statement):
                self._missing = True
                self._problems.append(
                    f"{name} is missing: {source} states that it had {statement.records} records"
                )
            return
        if state is State.CUT:
            self._problems.append(
                f"{scan.path}: was cut before {source} began: its writer had written "
                f"{statement.records} records"
            )
            return
        if state is State.UNREADABLE and not statement.records:
            self._problems.append(
                f"{scan.path}: could not be read when {source} began, so that nothing states "
                "what it had"
            )
            return
        self._compare(scan, source, statement)

    def _compare(self, scan: Scan, source: str, statement: Statement) -> None:
        digest = scan.digest_at(statement.records)
        if digest is None:
            if not scan.problem:
                self._problems.append(
                    f"{scan.path}: was cut: it has {scan.records} records, and {source} states "
                    f"that it had {statement.records}"
                )
        elif digest != statement.digest:
            self._problems.append(f"{scan.path}: was written again: {source} states another digest")
        elif statement.state is State.ENDED and scan.records > statement.records:
            self._problems.append(
                f"{scan.path}: records were added: {source} states that it ended with "
                f"{statement.records}"
            )

    def _check_logged(self, head: LoggedHead) -> None:
        scan, pruned = self._by_name.get(head.file), self._pruned.get(head.file)
        if scan is None:
            if self._complete and (pruned is None or pruned.records < head.records):
                self._problems.append(
                    f"{head.file} is missing: the log states that it had {head.records} records"
                )
        elif scan.digest_at(head.records) != head.digest and not scan.problem:
            self._problems.append(
                f"{scan.path}: was cut or written again: it does not have the {head.records} "
                "records that the log states"
            )

    def _is_pruned(self, statement: Statement) -> bool:
        pruned = self._pruned.get(statement.name)
        if pruned is None or pruned.records < statement.records:
            return False
        return statement.state is not State.ENDED or pruned.digest == statement.digest

    def _check_named(self, named: set[str]) -> None:
        """Check that each file but the last is named by another one."""
        if not any(scan.has_beginning for scan in self._scans):
            if len(self._scans) > 1:
                self._remarks.append(
                    "these files are of an earlier version, which did not connect them: "
                    "a missing file is not noticed"
                )
            return
        self._remarks += [
            f"{scan.path}: is of an earlier version, which did not connect files: what a later "
            "file states about it is how it was then"
            for scan in self._by_name.values()
            if scan.records and not scan.has_beginning
        ]
        unnamed = [s for s in self._by_name.values() if s.name not in named and s.records]
        if len(unnamed) > 1 and not self._missing:  # a missing file may have named them
            names = ", ".join(sorted(scan.name for scan in unnamed))
            self._problems.append(
                f"{names}: no later file names more than one of them: a file was added, or "
                "state files were removed, or an earlier version of the broker ran last; start "
                "this version, which names its files"
            )

    def _check_signatures(self) -> dict[str, int]:
        """Return the number of records that good signatures cover, by name of the file."""
        covered = dict(self._own)
        while self._extend(covered):
            pass
        if self._scans and not any(covered.values()):
            self._problems.append("no head is signed with the given key")
            return covered
        for name, scan in self._by_name.items():
            self._check_coverage(scan, covered[name])
        return covered

    def _check_coverage(self, scan: Scan, covered: int) -> None:
        """Report the records of a file that no signature covers, or only one of a later file."""
        rest, own = scan.records - covered, scan.records - self._own[scan.name]
        is_ended = scan.name in self._ends
        if scan.records and not covered:
            self._problems.append(
                f"{scan.path}: no record is signed: the file was added, or its writer had no "
                "--audit-key"
            )
        elif rest > 1:  # a head at the end is covered by the next file
            line = f"{scan.path}: the last {rest} records are not signed"
            # The broker signs a head before so many, and at its end.
            is_sign = is_ended or rest >= HEAD_RECORDS or self._stopped
            (self._problems if is_sign else self._remarks).append(line)
        elif own > 1:
            self._remarks.append(
                f"{scan.path}: the last {own} records were signed only by a later file, as it "
                "found them: the writer was killed, or had no --audit-key"
            )
        elif self._stopped and not is_ended and not _has_last_head(scan):
            self._problems.append(
                f"{scan.path}: its end is not signed: it was cut, or its writer was killed"
            )

    def _signed_by_itself(self, scan: Scan) -> int:
        """Return the number of records that good signatures of the file's own heads cover."""
        signed = 0
        for head in scan.heads if self._keys else ():
            if self._is_signed(scan, head):
                signed = head.records
        return signed

    def _is_signed(self, scan: Scan, head: Head) -> bool:
        if not head.signature:
            return False
        known = (head.signature, scan.name, head.records, head.digest)
        if any(key.accepts(*known, last=head.last) for key in self._keys):
            return True
        self._problems.append(
            f"{scan.path}: the head in line {head.records + 1} is not signed with the given key"
        )
        return False

    def _extend(self, covered: dict[str, int]) -> bool:
        """Extend what is covered by statements that are covered; return whether there were any."""
        changed = False
        for name, scan in self._by_name.items():
            for index, statement in scan.statements:
                known = covered.get(statement.name)
                if index < covered[name] and known is not None and known < statement.records:
                    covered[statement.name] = statement.records
                    changed = True
        return changed


def _has_last_head(scan: Scan) -> bool:
    """Return whether a file ends with a head that states this."""
    return bool(scan.heads) and scan.heads[-1].last and scan.heads[-1].records == scan.records - 1

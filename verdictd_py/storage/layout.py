"""Preparation of a data directory: its directories and the defaults that are missing."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.packaged import policy_text
from verdictd_py.ports.tees import Documents
from verdictd_py.storage import walks
from verdictd_py.storage.access import WritableByOthers, problem_of_path
from verdictd_py.storage.directory import LOCK_FILE, Directory, Entry, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.inspection import AUDIT, DIRECTORIES, EXAMINED_AT_START, Inspection

RELEASE_FILES: Final = ("releasePolicy.rego", "releaseData")
"""Release policy and its data, in `opa/`."""

_REJECT: Final = b'{"default":[{"type":"reject"}],"transports":{}}\n'
"""Default image policy. Guests cannot read a policy without `transports`."""

_SIGSTORE: Final = b"default-docker:\n    sigstore: file:///var/lib/containers/sigstore\n"

IMAGE_DEFAULTS: Final[tuple[tuple[Segments, bytes], ...]] = (
    (("image", "policy.json"), _REJECT),
    (("image", "sigstore.yaml"), _SIGSTORE),
)
"""Defaults of files that are sealed if the directory is."""

MAX_DOCUMENTS: Final = 1000
"""Number of files in `opa/` whose permissions are verified at the start."""


def prepare(
    path: Path,
    documents: Iterable[Documents],
    *,
    unsafe_writable: bool = False,
    sealed: bool = False,
) -> tuple[Directory, Inspection]:
    """Open the data directory and write the defaults that are missing.

    Existing files are never changed.

    Args:
        documents: policies and reference data of the TEEs, whose defaults are written.
        unsafe_writable: see `Directory.open`.
        sealed: whether the caller writes `IMAGE_DEFAULTS` itself, sealed.

    Returns:
        The directory, and its inspection, which has examined the first files. The caller advances
        it while the daemon runs, if it is not complete.

    Raises:
        ConfigError: the directory cannot be used; the message has the cause and the remedy.
    """
    directory = Directory.open(path, unsafe_writable=unsafe_writable)
    for name in DIRECTORIES:
        with _as_config_error(path, name):
            directory.make(name)
    for segments, content in _defaults(documents, sealed=sealed):
        with _as_config_error(path, *segments), suppress(AlreadyExists):
            if not directory.exists(segments):  # otherwise it would be written to be discarded
                directory.create(segments, content)
    require_own(directory, path)
    with _as_config_error(path):
        inspection = Inspection(directory)
        inspection.advance(EXAMINED_AT_START)
        return directory, inspection


def require_own(directory: Directory, path: Path) -> None:
    """Refuse directories, and documents, that other users may change.

    Keys and resources that they may change are refused when they are read, so that one of them
    does not prevent the start.

    Raises:
        ConfigError: other users may change one; the message has the remedy.
    """
    problem = directory.fault(*DIRECTORIES)
    if not problem:
        for entry in islice(walks.examine(directory, OPA), MAX_DOCUMENTS):
            if not isinstance(entry, Entry):
                continue
            try:
                directory.read(entry.segments)
            except WritableByOthers:
                problem = str(problem_of_path(path.absolute().joinpath(*entry.segments)))
            except (NotFound, StorageError):
                continue  # reported when it is used
    if problem:
        raise ConfigError(f"cannot use {problem}")


def share_audit(path: Path, mode: str, group: str | None) -> None:
    """Let a group read the files below `audit/`, or only this user.

    The directory has the group and the set-group-id bit, so that new files get the group.

    Args:
        path: the data directory.
        mode: mode of the files: `0600` or `0640`.
        group: name of the group; None for that of this process.

    Raises:
        ConfigError: there is no such group, or it cannot reach the directory; the message has
            the remedy.
    """
    audit = path / AUDIT
    refuse_group_without_effect(mode, group)
    if mode == "0600":
        return
    try:
        gid = os.getegid() if group is None else group_id(group)
        os.chown(audit, -1, gid)
        audit.chmod(0o2750)
    except OSError as error:
        raise ConfigError(
            f"cannot give {audit} to the group of --audit-group: {error.strerror}; "
            "make this user a member of the group"
        ) from error
    root = path.stat()
    needed = stat.S_IXGRP if root.st_gid == gid else stat.S_IXOTH
    if not root.st_mode & needed:
        name = group or str(gid)
        raise ConfigError(
            f"the group {name} cannot reach {audit}; run 'chgrp {name} {path}' and "
            f"'chmod g+x {path}'"
        )


def group_id(name: str) -> int:
    """Return the number of the group that may read audit files.

    Raises:
        ConfigError: there is no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {name}; correct --audit-group") from None


def refuse_group_without_effect(mode: str, group: str | None) -> None:
    """Refuse a group of audit files that only this user may read.

    Raises:
        ConfigError: there is one.
    """
    if mode == "0600" and group is not None:
        raise ConfigError(
            "--audit-group has no effect while only this user may read audit files; "
            "add --audit-mode 0640, or remove it"
        )


@contextmanager
def _as_config_error(path: Path, *segments: str) -> Iterator[None]:
    where = path.joinpath(*segments)
    try:
        yield
    except AlreadyExists as error:
        raise ConfigError(
            f"cannot use {where}: it is a file or a link where a directory belongs; "
            "move it away, or choose another --data-dir"
        ) from error
    except WritableByOthers as error:
        raise ConfigError(f"cannot use {problem_of_path(where) or error}") from error
    except StorageError as error:
        raise ConfigError(
            f"cannot use {where}: it {error}; make it readable and writable for this user"
        ) from error


def _defaults(documents: Iterable[Documents], *, sealed: bool) -> list[tuple[Segments, bytes]]:
    defaults: list[tuple[Segments, bytes]] = [((LOCK_FILE,), b"")]
    if not sealed:
        defaults += IMAGE_DEFAULTS
    for of_tee in documents:
        defaults += [((OPA, name), of_tee.packaged(name).encode()) for name in of_tee.names]
    defaults += [((OPA, name), policy_text(name).encode()) for name in RELEASE_FILES]
    return defaults

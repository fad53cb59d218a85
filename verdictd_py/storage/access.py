"""Write access of other users to files that determine decisions.

The rule is that of `StrictModes` of OpenSSH's server: the owner is root or the user of this
process, and no other user may write, in the file, its directory, and each directory above it.

* A directory with the sticky bit (`/tmp`) is accepted above the data directory, because other
  users can neither rename nor delete what they do not own there.
* A read-only volume of Kubernetes is accepted: the kubelet gives the directory of a Secret the mode
  1777 and that of a ConfigMap 0777, and mounts both read-only.
* The directory of a mounted volume that belongs to root is accepted if the group that may write is
  one of this process, and no other user is known to be a member: so `fsGroup` of Kubernetes gives
  a volume to a pod.
* A group that may write is accepted if it is the owner's private group (distributions with umask
  002 create such files): it has the owner's name, is the owner's primary group, and has no other
  member. This does not apply to files with an access control list, which can name further users.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py.errors import StorageError

_MAX_LINKS: Final = 40  # as the kernel (path_resolution(7))
_CONTENT: Final = "..data"
"""Link to the current content of a volume of Kubernetes."""
_ACL: Final = "system.posix_acl_access"
_NO_ACL: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why other users may change a file or directory.

    Attributes:
        where: path of the file or directory, or its name below a directory that was checked.
        cause: predicate of a sentence about it.
        command: command that fixes it, without the path.
    """

    where: str
    cause: str
    command: str

    def __str__(self) -> str:
        """Text for the operator."""
        return f"{self.where}: it {self.cause}; run '{self.command} {self.where}'"


class WritableByOthers(StorageError):
    """Other users may change a file or directory that determines decisions.

    The text has no path above the data directory, because a peer may read it.
    """


def problem_of_path(path: Path) -> Problem | None:
    """Return why other users may change what `path` names; None if they may not.

    The file or directory itself, each directory above it, and each link on the way are checked.
    What does not exist is not a problem.

    Raises:
        OSError: a directory cannot be read.
    """
    steps = list(steps_to(path.absolute()))
    for number, (step, status) in enumerate(steps, start=1):
        problem = problem_of(status, str(step), step, sticky=number < len(steps))
        if problem is not None:
            return problem
    return None


def problem_of(
    status: os.stat_result, where: str, file: Path | int, *, sticky: bool = False
) -> Problem | None:
    """Return why other users may change one file or directory, wherever it is.

    Args:
        where: its name in the problem.
        file: its path, or its descriptor.
        sticky: whether a directory with the sticky bit is accepted.
    """
    if status.st_uid not in (0, os.geteuid()):
        return Problem(where, "belongs to another user, who can change it", f"chown {_user()}")
    if stat.S_ISLNK(status.st_mode):  # a link has no mode: its directory decides
        return None
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not writable or (sticky and status.st_mode & stat.S_ISVTX):
        return None
    if stat.S_ISDIR(status.st_mode) and _is_volume(status, file):
        return None
    if writable == stat.S_IWGRP and (_is_private(status, file) or _is_given(status, file)):
        return None
    mode = stat.S_IMODE(status.st_mode)
    return Problem(where, f"can be changed by other users (mode {mode:04o})", "chmod go-w")


def steps_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what the kernel passes when it resolves an absolute path: directories and links.

    The last one is what the path names, if it exists.
    """
    current = Path("/")
    yield current, os.lstat(current)
    pending = list(reversed(path.parts[1:]))
    links = 0
    while pending:
        name = pending.pop()
        step = current.parent if name == ".." else current / name
        try:
            status = os.lstat(step)
        except FileNotFoundError:
            return
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            current = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        current = Path("/") if target.is_absolute() else current
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _is_volume(status: os.stat_result, file: Path | int) -> bool:
    """Return whether a directory is a volume that root wrote as Kubernetes does, read-only here.

    Source: kubernetes, pkg/volume/util/atomic_writer.go; pkg/volume/emptydir/empty_dir.go.
    """
    try:
        if isinstance(file, int):
            data = os.stat(_CONTENT, dir_fd=file, follow_symlinks=False)
        else:
            data = os.lstat(file / _CONTENT)
        read_only = os.statvfs(file).f_flag & os.ST_RDONLY
    except OSError:
        return False
    is_roots = status.st_uid == data.st_uid == 0
    return is_roots and stat.S_ISLNK(data.st_mode) and bool(read_only)


def _is_private(status: os.stat_result, file: Path | int) -> bool:
    """Return whether the group of a file consists of the file's owner only."""
    try:
        owner = pwd.getpwuid(status.st_uid)
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    members = {owner.pw_name, *group.gr_mem}
    members |= {user.pw_name for user in pwd.getpwall() if user.pw_gid == group.gr_gid}
    private = group.gr_name == owner.pw_name and owner.pw_gid == group.gr_gid
    return private and members == {owner.pw_name} and not _has_acl(file)


def _is_given(status: os.stat_result, file: Path | int) -> bool:
    """Return whether root has given a mounted volume to the group of this process alone.

    Source: kubernetes, pkg/volume/volume_linux.go (`SetVolumeOwnership`).
    """
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
        return False
    if status.st_gid not in (os.getegid(), *os.getgroups()):
        return False
    try:
        above = os.stat("..", dir_fd=file) if isinstance(file, int) else (file / "..").stat()
    except OSError:
        return False
    members = {user.pw_name for user in pwd.getpwall() if user.pw_gid == status.st_gid}
    with suppress(KeyError):
        members |= set(grp.getgrgid(status.st_gid).gr_mem)
    return above.st_dev != status.st_dev and members <= {_user()} and not _has_acl(file)


def _has_acl(file: Path | int) -> bool:
    try:
        os.getxattr(file, _ACL)
    except OSError as error:
        # EBADF: the descriptor only stands for the file (O_PATH).
        if error.errno == errno.EBADF and isinstance(file, int):
            return _has_acl(Path(f"/proc/self/fd/{file}"))
        return error.errno not in _NO_ACL
    return True


def _user() -> str:
    """Return the name of the user of this process."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())

"""Native code of the policy engine: compiled once for each machine, stored for its user only.

Loading native code runs it. So the file is read only from a directory, and only if it is a file,
that no other user can write; and its name says from what it was compiled. The kernel
copies it to memory of its own, which is verified and then mapped: a file that is truncated later
does not end the process.

An image can have the code next to this module (`store_packaged`): for any processor of its
architecture, and used only if root owns it and no other user can write there.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from wasmtime import Engine, Module, WasmtimeError

from verdictd_py.errors import PolicyInvalid

WAITING: Final = "compiling the policy engine for this machine, once (some seconds)"

_FORMAT: Final = b"code, SHA-256 of the code"
"""Content of a stored file. Its name depends on this text, and on what the code depends on."""

_DIGEST_BYTES: Final = 32
_MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a stored file; it has some 12 MiB."""

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

_PACKAGED: Final = Path(__file__).parent
"""A user who can write there can change the program as well."""

_ROOT: Final = 0
_ANY_PROCESSOR: Final = "any processor of this architecture"


def load(engine: Engine, code: bytes, report: Callable[[str], None]) -> Module:
    """Return the module, compiled now, before, or when the image was built.

    Args:
        engine: its settings are part of the compiled code, and wasmtime compares them.
        code: WebAssembly of the module.
        report: receives `WAITING` before a compilation.

    Raises:
        PolicyInvalid: the module is damaged, or memory for compiling it is missing.
    """
    with suppress(OSError), _opened(_PACKAGED, _ROOT) as directory:
        packaged = _read(directory, _name(code, _ANY_PROCESSOR), engine, _ROOT)
        if packaged is not None:
            return packaged
    name = _name(code, _processor())
    with suppress(OSError), _directory() as directory:
        stored = _read(directory, name, engine, os.geteuid())
        if stored is not None:
            return stored
    report(WAITING)
    module = _compiled(engine, code)
    with suppress(OSError), _directory() as directory:
        _write(directory, name, bytes(module.serialize()), 0o600)
    return module


def target() -> str:
    """Return the target of code for any processor of this architecture, as wasmtime names it."""
    return f"{platform.machine()}-unknown-linux-gnu"


def store_packaged(compiler: Engine, loader: Engine, code: bytes) -> Path:
    """Compile the module and store it next to this file; return its path. Root calls this.

    Two calls with the same code and version of wasmtime write the same bytes.

    Args:
        compiler: as `loader`, but its settings have `target()`.
        loader: the engine that `load` will get.

    Raises:
        OSError: it cannot be written, or another user can write there.
        PolicyInvalid: the module is damaged, or the loader refuses the compiled code.
    """
    name = _name(code, _ANY_PROCESSOR)
    with _opened(_PACKAGED, os.geteuid()) as directory:
        _write(directory, name, bytes(_compiled(compiler, code).serialize()), 0o644)
        if _read(directory, name, loader, os.geteuid()) is None:
            raise PolicyInvalid("the compiled policy engine cannot be loaded on this machine")
    return _PACKAGED / name


def _compiled(engine: Engine, code: bytes) -> Module:
    try:
        return Module(engine, code)
    except WasmtimeError as error:
        first = str(error).partition("\n")[0]
        raise PolicyInvalid(
            f"the policy engine cannot be compiled: {first}; install the package again"
        ) from error


def cache_directory() -> Path:
    """Return where the file is stored: systemd's cache directory, or one in the user's.

    Raises:
        RuntimeError: the user has no home directory.
    """
    of_unit = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if Path(of_unit).is_absolute():
        return Path(of_unit).resolve()  # with DynamicUser=yes it is a link of systemd's
    of_user = os.environ.get("XDG_CACHE_HOME", "")
    if Path(of_user).is_absolute():
        return Path(of_user) / "verdictd-py"
    return Path.home() / ".cache" / "verdictd-py"


def _name(code: bytes, processor: str) -> str:
    digest = hashlib.sha256(_FORMAT + code)
    for part in (version("wasmtime"), platform.machine(), processor):
        digest.update(hashlib.sha256(part.encode()).digest())
    return f"policy-engine-{digest.hexdigest()}"


def _processor() -> str:
    """Features of the processor: code for more of them must not run on another one."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


@contextmanager
def _directory() -> Iterator[int]:
    """Descriptor of the directory.

    Raises:
        OSError: it cannot be made, or another user can write there.
    """
    try:
        path = cache_directory()
    except RuntimeError as error:  # neither HOME nor an entry in passwd
        raise OSError(str(error)) from error
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(path, os.geteuid()) as descriptor:
        yield descriptor


@contextmanager
def _opened(path: Path, owner: int) -> Iterator[int]:
    """Descriptor of an existing directory.

    Raises:
        OSError: it is a link, another user's, or another user can write there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_owner(os.fstat(descriptor), owner)
        yield descriptor
    finally:
        os.close(descriptor)


def _require_owner(found: os.stat_result, owner: int) -> None:
    if found.st_uid != owner or found.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError("another user can write there")


def _read(directory: int, name: str, engine: Engine, owner: int) -> Module | None:
    """Return the stored module, or None if it is missing, not the owner's, or damaged."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _DIGEST_BYTES < found.st_size <= _MAX_BYTES:
            return None
        _require_owner(found, owner)  # a PermissionError is an OSError
        with _copy(descriptor, found.st_size) as copy:
            return _verified(copy, engine)
    except (OSError, WasmtimeError):  # WasmtimeError: of another build of wasmtime
        return None
    finally:
        os.close(descriptor)


@contextmanager
def _copy(descriptor: int, size: int) -> Iterator[int]:
    """Copy a file to anonymous memory; yield the descriptor of the copy.

    Raises:
        OSError: the kernel or a sandbox refuses it.
    """
    copy = os.memfd_create("policy-engine")
    try:
        copied = 0
        while copied < size and (sent := os.sendfile(copy, descriptor, copied, size - copied)):
            copied += sent
        yield copy
    finally:
        os.close(copy)


def _verified(copy: int, engine: Engine) -> Module | None:
    """Return the module in the copy of a stored file, or None if the file is damaged.

    Raises:
        WasmtimeError: the code is of another build of wasmtime.
    """
    with mmap.mmap(copy, 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
        code, digest = view[:-_DIGEST_BYTES], bytes(view[-_DIGEST_BYTES:])
        with code:
            if hashlib.sha256(code).digest() != digest:
                return None
            try:
                return Module.deserialize_file(engine, f"/proc/self/fd/{copy}")
            except WasmtimeError:  # a container without /proc, or that maps no such file
                return Module.deserialize(engine, bytes(code))


def _write(directory: int, name: str, stored: bytes, mode: int) -> None:
    """Replace the file as a whole: another process reads the old one, or the new one."""
    temporary = f"{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(stored)
            file.write(hashlib.sha256(stored).digest())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise

"""Memory that the workers of a broker share, and a kernel that refuses it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from verdictd_py import sharedmemory
from verdictd_py.errors import ConfigError


def test_memory_is_shared_and_empty() -> None:
    descriptor = sharedmemory.create("test", 10_000)
    one, two = sharedmemory.attach(descriptor), sharedmemory.attach(descriptor)
    assert one[:] == bytes(10_000)
    one[5:8] = b"abc"
    assert two[4:9] == b"\0abc\0"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_kernel_without_the_seal_creates_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create

    def old(name: str, flags: int) -> int:
        if flags != os.MFD_CLOEXEC:
            raise OSError(errno.EINVAL, "Invalid argument")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    os.close(sharedmemory.create("test", 4096))


def test_a_kernel_that_refuses_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(ConfigError, match=r"Too many open files; .* --workers 1"):
        sharedmemory.create("test", 4096)


LIMITED = textwrap.dedent(
    """
    import resource
    from verdictd_py import sharedmemory
    from verdictd_py.errors import ConfigError
    descriptor = sharedmemory.create("test", 1 << 40)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
    try:
        sharedmemory.attach(descriptor)
    except ConfigError as error:
        print(error)
    """
)


def test_a_limit_of_addresses_is_one_line_with_a_remedy() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True
    )
    assert "'ulimit -v unlimited', or start with --workers 1" in ended.stdout

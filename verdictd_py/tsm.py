"""Quotes from Linux, where this process runs in a TDX guest: configfs-tsm.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report (6.7 and later).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from verdictd_py.domain.evidence import MAX_QUOTE_BYTES, REPORT_DATA_BYTES
from verdictd_py.errors import ConfigError

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
_PROVIDER: Final = "tdx_guest"  # drivers/virt/coco/tdx-guest/tdx-guest.c

_REMEDIES: Final = {
    errno.ENOENT: "this is no TDX guest, or has no Linux 6.7 with configfs mounted",
    errno.EACCES: "run as root, or give this user the directory",
    errno.EPERM: "run as root, or give this user the directory",
    errno.ENXIO: "the quoting service of the host does not answer",
    errno.ETIMEDOUT: "the quoting service of the host does not answer",
}


class TsmQuotes:
    """Makes quotes of this TDX guest.

    Args:
        reports: the kernel's directory, None for `REPORTS`.
    """

    def __init__(self, reports: Path | None = None) -> None:
        self._reports = reports or REPORTS

    def quote(self, report_data: bytes) -> bytes:
        """A quote with `report_data`, 64 bytes, in it.

        An entry of its own for each quote: nobody else writes to it meanwhile.

        Raises:
            ConfigError: the kernel has none; one line: cause and remedy.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"REPORTDATA has {REPORT_DATA_BYTES} bytes")
        entry = self._reports / f"verdictd-{uuid4().hex}"
        try:
            entry.mkdir()
            try:
                return self._read(entry, report_data)
            finally:
                entry.rmdir()
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, (error.strerror or "it failed").lower())
            raise ConfigError(f"no TDX quote can be had from {self._reports}: {remedy}") from error

    def _read(self, entry: Path, report_data: bytes) -> bytes:
        provider = (entry / "provider").read_text(encoding="ascii").strip()
        if provider != _PROVIDER:
            raise ConfigError(f"quotes of {provider!r} are not served by this version, tdx is")
        # The whole value in one write, into a file that the kernel has made.
        descriptor = os.open(entry / "inblob", os.O_WRONLY)
        try:
            os.write(descriptor, report_data)
        finally:
            os.close(descriptor)
        with (entry / "outblob").open("rb") as stream:
            quote = stream.read(MAX_QUOTE_BYTES + 1)
        if not quote or len(quote) > MAX_QUOTE_BYTES:
            raise ConfigError(f"the kernel's quote has {len(quote)} bytes")
        return quote

"""Quotes of the TDX guest that this process runs in, from Linux's configfs-tsm.

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

_REASONS: Final = {
    errno.ENOENT: "not a TDX guest, or no configfs; use Linux 6.7 or later and mount configfs",
    errno.EACCES: "permission denied; run as root, or give this user access to the directory",
    errno.EPERM: "permission denied; run as root, or give this user access to the directory",
    errno.ENXIO: "the host's quoting service does not answer; check it on the host",
    errno.ETIMEDOUT: "the host's quoting service does not answer; check it on the host",
}


class TsmQuotes:
    """Source of quotes of this TDX guest.

    Args:
        reports: the kernel's directory; None for `REPORTS`.
    """

    def __init__(self, reports: Path | None = None) -> None:
        self._reports = reports or REPORTS

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote with `report_data`, 64 bytes, in it.

        Every quote has its own entry, so that no other process writes to it.

        Raises:
            ConfigError: the kernel provides no quote.
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
            reason = _REASONS.get(error.errno or 0, (error.strerror or "it failed").lower())
            raise ConfigError(f"cannot get a TDX quote from {self._reports}: {reason}") from error

    def _read(self, entry: Path, report_data: bytes) -> bytes:
        provider = (entry / "provider").read_text(encoding="ascii").strip()
        if provider != _PROVIDER:
            raise ConfigError(f"quotes of {provider!r} are not supported; use a TDX guest")
        # The kernel needs the whole value in one write, into the file that it created.
        descriptor = os.open(entry / "inblob", os.O_WRONLY)
        try:
            os.write(descriptor, report_data)
        finally:
            os.close(descriptor)
        with (entry / "outblob").open("rb") as stream:
            quote = stream.read(MAX_QUOTE_BYTES + 1)
        if not quote or len(quote) > MAX_QUOTE_BYTES:
            raise ConfigError(
                f"the kernel's quote has {len(quote)} bytes, not 1 to {MAX_QUOTE_BYTES}"
            )
        return quote

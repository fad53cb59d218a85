"""Protocol versions of guests in the field; all of them are served."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from verdictd_py.encoding import quoted
from verdictd_py.errors import ProtocolVersionRefused


class Version(StrEnum):
    """Version that a guest names in its first request (wire-rcar.md, "Versions")."""

    V0_1_1 = "0.1.1"  # guest-components v0.10 and v0.11
    V0_2_0 = "0.2.0"  # v0.12 and v0.13
    V0_4_0 = "0.4.0"  # v0.14 and later


SERVED: Final = " or ".join(f"`{version}`" for version in reversed(Version))


def served(text: str) -> Version:
    """Return the version that a guest requests.

    Raises:
        ProtocolVersionRefused: it is not served. Guests compare the beginning of the text.
    """
    try:
        return Version(text)
    except ValueError:
        raise ProtocolVersionRefused(
            f"KBS Client Protocol Version Mismatch: expect {SERVED} while the request is "
            f"{quoted(text)}"
        ) from None

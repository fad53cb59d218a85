"""Answers to a refused guest, in forms that its client prints.

attestation-agent of every version sends `version` first. Of a refusal it prints only which member
is missing, or "The VersionResponse status is Fail", and it sends its next request on the same
connection. `version` discloses nothing, so its first answer is the usual one, and the next request
receives the refusal in its own form, which the client prints with code and id.
Sources: wire-eaa.md, "Commands"; kbc/src/eaa_kbc/mod.rs of attestation-agent v0.1.0 and of
guest-components v0.8.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.eaa.conversation import Conversation
from verdictd_py.protocols.eaa.messages import Version

MAX_BYTES: Final = 65_536
"""Maximum number of bytes of a refused guest's incomplete request. Real ones take 2 KiB."""


class Refusal:
    """Conversation with a refused guest: at most one answer to `version`, then the refusal.

    Args:
        text: the refusal, which may be disclosed to the guest.

    Attributes:
        complete: whether the refusal was returned: the connection ends after it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._conversation = Conversation()
        self._versions = 0
        self.complete = False

    @property
    def held(self) -> int:
        """Number of bytes that are stored for the guest."""
        return self._conversation.pending_bytes

    def answers(self, plaintext: bytes) -> Iterator[bytes]:
        """Return the answers to the requests that `plaintext` completes; none after the refusal.

        The guest may send anything: what is not a request receives the refusal too.
        """
        self._conversation.receive(plaintext)
        while not self.complete:
            received = self._conversation.next_request()
            if received is None:
                if self.held > MAX_BYTES:
                    yield self.unrequested()
                return
            if isinstance(received.request, Version) and not self._versions:
                self._versions += 1
                yield answers.version()
            else:
                self.complete = True
                yield received.failure(self._text)

    def unrequested(self) -> bytes:
        """Return the refusal for a guest that sent no complete request."""
        self.complete = True
        return answers.failure(FailureForm.A, self._text)

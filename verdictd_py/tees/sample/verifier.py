"""Sample evidence, which any client can make: only for tests of clients without hardware.

Source: guest-components, attester "sample": `{"svn":"1","report_data":"<base64>"}`.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Final

from verdictd_py.domain.evidence import REPORT_DATA_BYTES, Evidence, VerifiedEvidence
from verdictd_py.encoding import decode_base64, decode_object
from verdictd_py.errors import EvidenceFormat, RequestError

NAME: Final = "sample"

_MAX_SVN_CHARACTERS: Final = 64  # a number


class InsecureSampleVerifier:
    """Verifier that accepts every claim (port `Verifier`); enabled by its own flag."""

    name = tee = NAME

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """Parse sample evidence. There is nothing in it that could be verified.

        Raises:
            EvidenceFormat: the evidence does not have the form above.
        """
        del now
        if evidence.tee != self.tee:
            raise EvidenceFormat(f"evidence of {evidence.tee} is not sample evidence")
        try:
            members = decode_object(evidence.quote, "the sample evidence")
            svn, encoded = members.get("svn"), members.get("report_data")
            if not isinstance(encoded, str) or not isinstance(svn, str):
                raise EvidenceFormat("svn or report_data of the sample evidence is not a text")
            if len(svn) > _MAX_SVN_CHARACTERS:
                raise EvidenceFormat(f"the svn is longer than {_MAX_SVN_CHARACTERS} characters")
            report_data = decode_base64(encoded, "the sample evidence's report_data")
        except RequestError as error:
            raise EvidenceFormat(str(error)) from None
        if len(report_data) > REPORT_DATA_BYTES:
            raise EvidenceFormat(f"the report_data is longer than {REPORT_DATA_BYTES} bytes")
        report_data = report_data.ljust(REPORT_DATA_BYTES, b"\0")
        return VerifiedEvidence(
            tee=self.tee,
            report_data=report_data,
            claims={"svn": svn, "reportData": report_data.hex()},
            tcb_status=None,
            advisory_ids=(),
            digest=sha256(evidence.quote).hexdigest(),
        )

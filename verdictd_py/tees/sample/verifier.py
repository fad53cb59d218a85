"""Sample evidence, which anybody can make: for trying clients without hardware, never more.

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
    """Believes whatever is said (port `Verifier`). It needs a flag of its own."""

    name = tee = NAME

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """Takes sample evidence apart. Nothing of it is verified, for nothing can be.

        Raises:
            EvidenceFormat: it has another form.
        """
        del now
        if evidence.tee != self.tee:
            raise EvidenceFormat(f"evidence of {evidence.tee} is no sample evidence")
        try:
            members = decode_object(evidence.quote, "the sample evidence")
            svn, said = members.get("svn"), members.get("report_data")
            if not isinstance(said, str) or not isinstance(svn, str):
                raise EvidenceFormat("the sample evidence has no text svn and report_data")
            if len(svn) > _MAX_SVN_CHARACTERS:
                raise EvidenceFormat(f"the svn is longer than {_MAX_SVN_CHARACTERS} characters")
            report_data = decode_base64(said, "the sample evidence's report_data")
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

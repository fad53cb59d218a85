"""Fields that events of several subjects have."""

from typing import Annotated

from verdictd_py.domain.eventtypes import FieldInfo

Peer = Annotated[str, FieldInfo("Address of the peer: IP address and port.", characters=128)]
CallerName = Annotated[
    str,
    FieldInfo(
        "Name of the management client: its user id or its certificate's name.", characters=512
    ),
]
AppraisalId = Annotated[
    str, FieldInfo("Id of the appraisal, for `verdict-py explain`.", characters=64)
]
Code = Annotated[
    str, FieldInfo("Code of the refusal or failure; `ok` for an accepted guest.", characters=64)
]
TeeName = Annotated[str, FieldInfo("Name of the TEE.", characters=64)]
Reason = Annotated[str, FieldInfo("Cause, and the remedy if there is one.", characters=2048)]
Path = Annotated[
    str, FieldInfo("Path of the key or resource below the data directory.", characters=1024)
]
Operation = Annotated[str, FieldInfo("Operation that was requested.", characters=256)]
Digest = Annotated[str, FieldInfo("SHA-256 digest, in hexadecimal.", characters=128)]
CollateralDigest = Annotated[
    str,
    FieldInfo("SHA-256 digest of the collateral that verified the evidence.", characters=64),
]

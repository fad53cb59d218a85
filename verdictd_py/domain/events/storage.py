"""Events of what is stored: documents, contents, sealed objects, and the storage itself."""

from typing import Annotated

from verdictd_py.domain.events.fields import Digest, Reason, TeeName
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event

PreviousDigest = Annotated[
    str, FieldInfo("SHA-256 digest of its content before, if it had any.", characters=64)
]
CurrentDigest = Annotated[
    str, FieldInfo("SHA-256 digest of its content, if it exists.", characters=64)
]
StoragePart = Annotated[
    str, FieldInfo("Part of the storage: `data directory` or `sessions`.", characters=64)
]


@event("policy.loaded")
class PolicyLoaded(Event):
    """A policy was read and can be used: at start and at each reload."""

    tee: TeeName


@event("warning.policy", level=Level.WARNING)
class WarningPolicy(Event):
    """A policy cannot be used: no guest that needs it can be appraised."""

    tee: Annotated[str, FieldInfo("Name of the TEE, or `release`.", characters=64)]
    reason: Reason


@event("warning.unpinned", level=Level.WARNING)
class WarningUnpinned(Event):
    """A policy accepts guests with any value of some measurements."""

    tee: TeeName
    measurements: Annotated[
        tuple[str, ...], FieldInfo("Names of these measurements.", characters=128, items=64)
    ]
    reason: Reason


@event("warning.document", level=Level.WARNING)
class WarningDocument(Event):
    """A stored document has no effect, entirely or in part."""

    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]
    reason: Reason


@event("warning.content", level=Level.WARNING)
class WarningContent(Event):
    """A stored content cannot be used by guests, by all of them or by some."""

    resource: Annotated[str, FieldInfo("Path of the resource.", characters=1024)]
    reason: Reason


@event("warning.storage", level=Level.WARNING)
class WarningStorage(Event):
    """The data directory has a defect that the daemon tolerates."""

    reason: Reason


@event("warning.rolled-back", level=Level.WARNING, audit=Audit.YES)
class WarningRolledBack(Event):
    """A policy, reference data or a set has a content again that had been replaced."""

    file: Annotated[str, FieldInfo("Its path in the data directory.", characters=4096)]
    revision: Annotated[int, FieldInfo("Number of the content that it has now.")]
    earlier: Annotated[int, FieldInfo("Number under which it had this content before.")]
    sha256: Digest
    replaced: Annotated[
        str, FieldInfo("SHA-256 digest of the content that was replaced.", characters=64)
    ]


@event("storage.fault", level=Level.ERROR)
class StorageFault(Event):
    """A part of the storage cannot be used, and what needs it fails until `storage.recovered`."""

    part: StoragePart
    reason: Reason


@event("storage.recovered")
class StorageRecovered(Event):
    """A part of the storage can be used again, without a restart."""

    part: StoragePart


@event("seal.opened", audit=Audit.YES)
class SealOpened(Event):
    """The index of the sealed objects was read; a lower generation than before is a roll-back."""

    generation: Annotated[int, FieldInfo("Number of changes of the sealed objects so far.")]
    strict: Annotated[bool, FieldInfo("Whether plain objects are refused.")]
    key: Annotated[
        str, FieldInfo("Newest version of the key-encryption key, not secret.", characters=255)
    ]


@event("seal.refused", level=Level.ERROR, audit=Audit.LIMITED)
class SealRefused(Event):
    """A stored object is refused: it was altered, replaced, removed, or is not sealed."""

    path: Annotated[str, FieldInfo("Canonical path of the object.", characters=1024)]
    reason: Reason


@event("file.changed", audit=Audit.YES)
class FileChanged(Event):
    """A file that determines decisions is used for the first time, or was changed, by anyone."""

    file: Annotated[
        str, FieldInfo("Its path: relative in the data directory, else absolute.", characters=4096)
    ]
    previous: PreviousDigest | None
    sha256: CurrentDigest | None
    revision: (
        Annotated[int, FieldInfo("Number of this content among all that the document has had.")]
        | None
    ) = None


@event("warning.shadowed", level=Level.WARNING)
class WarningShadowed(Event):
    """A stored resource is not served to guests, because a file has the same name."""

    resource: Annotated[str, FieldInfo("Path of the resource.", characters=1024)]
    by: Annotated[str, FieldInfo("Path of the file.", characters=1024)]

"""Events of callers of the management APIs and of key providers: each use and each change."""

from typing import Annotated

from verdictd_py.domain.events.fields import (
    AppraisalId,
    CallerName,
    Code,
    Digest,
    Operation,
    Path,
    Peer,
    Reason,
    TeeName,
)
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event
from verdictd_py.domain.secrets import SecretBytes

KeyName = Annotated[str, FieldInfo("Id of the key.", characters=1024)]
Pinned = Annotated[
    tuple[str, ...],
    FieldInfo(
        "Accepted reference values that were added, as `claim=value`.", characters=1024, items=256
    ),
]


@event("wrap.requested", by_peers=True)
class WrapRequested(Event):
    """A client requests that the options of an image layer be wrapped."""

    caller: CallerName
    parameter: Annotated[str, FieldInfo("Form of the key provider's parameter.", characters=64)]
    optsdata: Annotated[SecretBytes, FieldInfo("Options of the layer.")]


@event("wrap.refused", level=Level.WARNING, by_peers=True)
class WrapRefused(Event):
    """A client who may only wrap requested a key that is not available to it."""

    caller: CallerName
    kid: KeyName
    code: Code
    reason: Reason


@event("key.read")
class KeyRead(Event):
    """A key is used to wrap the options of an image layer."""

    kid: KeyName
    key: Annotated[SecretBytes, FieldInfo("The key.")]


@event("image-key.wrapped", audit=Audit.YES)
class ImageKeyWrapped(Event):
    """The options of an image layer were wrapped."""

    caller: CallerName
    kid: KeyName
    algorithm: Annotated[str, FieldInfo("Cipher that wraps them.", characters=64)]


@event("image-key.unwrapped", audit=Audit.YES)
class ImageKeyUnwrapped(Event):
    """The options of an image layer are unwrapped and returned to a client."""

    caller: CallerName
    kid: KeyName


@event("key.created", audit=Audit.YES)
class KeyCreated(Event):
    """A new key is created. Recorded before, as every change: `change.failed` follows a failure."""

    caller: CallerName
    kid: KeyName


@event("console.link-created", audit=Audit.YES)
class ConsoleLinkCreated(Event):
    """A caller of the client API gets a link, with which a person signs in to the console once."""

    caller: CallerName


@event("console.signed-in", audit=Audit.YES)
class ConsoleSignedIn(Event):
    """A person signs in to the console."""

    caller: CallerName
    peer: Peer


@event("console.refused", level=Level.WARNING, by_peers=True)
class ConsoleRefused(Event):
    """The console refused a sign-in, a change without its token, or a request for another host."""

    peer: Peer
    doing: Operation
    reason: Reason


@event("key.registered", audit=Audit.YES)
class KeyRegistered(Event):
    """A key that a client provides is stored."""

    caller: CallerName
    kid: KeyName


@event("key.exported", audit=Audit.YES)
class KeyExported(Event):
    """A key is returned to a client."""

    caller: CallerName
    kid: KeyName


@event("key.deleted", audit=Audit.YES)
class KeyDeleted(Event):
    """A key is deleted."""

    caller: CallerName
    kid: KeyName


@event("resource.exported", audit=Audit.YES)
class ResourceExported(Event):
    """A resource is returned to a client."""

    caller: CallerName
    path: Path


@event("resource.set", audit=Audit.YES)
class ResourceSet(Event):
    """A resource is stored."""

    caller: CallerName
    path: Path
    content: Annotated[SecretBytes, FieldInfo("The resource.")]


@event("resource.deleted", audit=Audit.YES)
class ResourceDeleted(Event):
    """A resource is deleted."""

    caller: CallerName
    path: Path


@event("policy.set", audit=Audit.YES)
class PolicySet(Event):
    """A policy, its reference data or another document that decides is stored."""

    caller: CallerName
    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]
    sha256: Digest


@event("policy.deleted", audit=Audit.YES)
class PolicyDeleted(Event):
    """A document that nothing reads is deleted."""

    caller: CallerName
    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]


@event("reference.pinned", audit=Audit.YES)
class ReferencePinned(Event):
    """Measurements of a known guest are added to the reference data."""

    caller: CallerName
    appraisal: AppraisalId
    name: Annotated[str, FieldInfo("Name of the reference data.", characters=1024)]
    values: Pinned


@event("reference.added", audit=Audit.YES)
class ReferenceAdded(Event):
    """A set of reference values is added."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]
    appraisal: Annotated[
        str,
        FieldInfo(
            "Id of the appraisal that the values come from; empty if there is none.", characters=64
        ),
    ]
    values: Pinned


@event("reference.retired", audit=Audit.YES)
class ReferenceRetired(Event):
    """A set of reference values is retired."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]


@event("reference.deleted", audit=Audit.YES)
class ReferenceDeleted(Event):
    """A set of reference values that is no longer in force is deleted."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]


@event("change.failed", level=Level.WARNING, audit=Audit.YES)
class ChangeFailed(Event):
    """A change that the record of this caller announced failed."""

    caller: CallerName
    change: Annotated[str, FieldInfo("Name of the event that announced the change.", characters=64)]
    object: Annotated[
        str, FieldInfo("Name of the key, resource, document or set.", characters=1024)
    ]
    code: Code
    reason: Reason

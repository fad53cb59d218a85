"""Events of the daemon's life: processes, listeners, settings and readiness."""

from typing import Annotated

from verdictd_py.domain.events.fields import CallerName, Digest, Reason
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event

KeyProviderAddress = Annotated[
    str, FieldInfo("Address of the key provider's own listener, if there is one.", characters=512)
]
RestartSeconds = Annotated[int, FieldInfo("Pause before the restart, unless the daemon ends.")]
WorkerNumber = Annotated[int, FieldInfo("Number of the guest worker, from 1.")]
KbsUrl = Annotated[str, FieldInfo("URL of the HTTP listener, if there is one.", characters=512)]
Changes = Annotated[
    tuple[str, ...], FieldInfo("What changed; empty if nothing did.", characters=512, items=64)
]


@event("policy-engine.compiling")
class PolicyEngineCompiling(Event):
    """The daemon compiles the policy engine for this machine before it serves its listeners."""

    reason: Annotated[str, FieldInfo("What the start waits for, and for how long.", characters=256)]


@event("daemon.started", audit=Audit.YES)
class DaemonStarted(Event):
    """The daemon serves its listeners."""

    version: Annotated[str, FieldInfo("Version of verdictd-py.", characters=64)]
    listen: Annotated[
        str, FieldInfo("Address of the listener for attested guests.", characters=512)
    ]
    client_api: Annotated[str, FieldInfo("Address of the management API.", characters=512)]
    keyprovider_api: KeyProviderAddress | None
    kbs_http: KbsUrl | None
    verifiers: Annotated[
        tuple[str, ...], FieldInfo("Names of the verifiers.", characters=64, items=64)
    ]
    attester: Annotated[
        str, FieldInfo("Name of the attester of the daemon's own certificate.", characters=64)
    ]
    data_dir: Annotated[str, FieldInfo("Path of the data directory.", characters=4096)]
    workers: Annotated[int, FieldInfo("Number of guest workers, if there are any.")] | None = None


@event("worker.started", audit=Audit.YES)
class WorkerStarted(Event):
    """A guest worker serves guests. Its events are in an audit file of its own."""

    worker: WorkerNumber
    pid: Annotated[int, FieldInfo("Id of its process.")]
    file: Annotated[
        str, FieldInfo("Path of its audit file below the data directory.", characters=256)
    ]


@event("worker.stopped", audit=Audit.YES)
class WorkerStopped(Event):
    """A guest worker has finished its requests, because the daemon stops."""

    worker: WorkerNumber
    file: Annotated[
        str, FieldInfo("Path of its last audit file below the data directory.", characters=256)
    ]
    records: Annotated[int, FieldInfo("Number of records in this file.")]
    digest: Annotated[str, FieldInfo("Digest of the last record in this file.", characters=64)]


@event("warning.worker", level=Level.WARNING, audit=Audit.YES)
class WarningWorker(Event):
    """A guest worker has ended, or could not be started; its connections are lost."""

    worker: WorkerNumber
    reason: Reason
    restarts_in_seconds: RestartSeconds | None = None


@event("listener.started")
class ListenerStarted(Event):
    """A listener serves clients. Recorded for each listener before `daemon.started`."""

    name: Annotated[str, FieldInfo("Name of the setting that gives its address.", characters=64)]
    endpoint: Annotated[str, FieldInfo("Address or URL for clients.", characters=512)]


@event("daemon.reloaded", audit=Audit.YES)
class DaemonReloaded(Event):
    """SIGHUP: the operator's files were read again, and are in force."""

    changed: Changes


@event("warning.reload", level=Level.WARNING, audit=Audit.YES)
class WarningReload(Event):
    """SIGHUP: some of the operator's files cannot be used, and their old content stays in force."""

    changed: Changes
    problems: Annotated[
        tuple[str, ...],
        FieldInfo("Cause and remedy for each file that cannot be used.", characters=2048, items=16),
    ]


@event("daemon.ready")
class DaemonReady(Event):
    """The broker is ready again: what `warning.readiness` reported is fixed."""


@event("warning.readiness", level=Level.WARNING)
class WarningReadiness(Event):
    """The broker is not ready; its health service and `/readyz` say so."""

    problems: Annotated[
        tuple[str, ...],
        FieldInfo("Each part that cannot be used, with its cause.", characters=2048, items=16),
    ]


@event("daemon.tasks")
class DaemonTasks(Event):
    """SIGUSR1 or SIGQUIT: the functions in which each task of the daemon waits."""

    tasks: Annotated[
        tuple[str, ...],
        FieldInfo(
            "Name of each task, with its functions and lines, innermost last.",
            characters=1024,
            items=200,
        ),
    ]


@event("daemon.stopping")
class DaemonStopping(Event):
    """The daemon received a signal to stop; it completes the requests in progress."""


@event("daemon.stopped", audit=Audit.YES)
class DaemonStopped(Event):
    """The daemon has stopped."""


@event("unsafe.option", level=Level.WARNING, audit=Audit.YES)
class UnsafeOption(Event):
    """The daemon runs with an unsafe option."""

    flag: Annotated[str, FieldInfo("Name of the option.", characters=128)]


@event("kbs.self-signed")
class KbsSelfSigned(Event):
    """The HTTP listener created a self-signed certificate for itself."""

    sha256: Digest
    names: Annotated[
        tuple[str, ...],
        FieldInfo("Names and addresses that it is valid for.", characters=256, items=128),
    ]


@event("kbs.administrators")
class KbsAdministrators(Event):
    """The HTTP listener accepts the tokens of these administrators."""

    names: Annotated[
        tuple[str, ...], FieldInfo("Names of the administrators.", characters=256, items=64)
    ]


@event("kbs.token-key-added", audit=Audit.YES)
class KbsTokenKeyAdded(Event):
    """A new key of attestation tokens is stored for all brokers; the ones before it expire."""

    key: Annotated[str, FieldInfo("Id of the key, `kid` in tokens.", characters=64)]
    signs_from: Annotated[
        str, FieldInfo("Time from which brokers sign with it, ISO 8601.", characters=32)
    ]
    caller: CallerName | None = None
    revoked: (
        Annotated[int, FieldInfo("Number of keys whose tokens are refused from now on.")] | None
    ) = None


@event("warning.identity", level=Level.WARNING)
class WarningIdentity(Event):
    """A certificate or key of the daemon could not be renewed or read, or guests refuse it."""

    reason: Reason


@event("warning.environment", level=Level.WARNING)
class WarningEnvironment(Event):
    """Variables of the environment cannot be read, and are ignored."""

    reason: Reason


@event("warning.other-daemon", level=Level.WARNING)
class WarningOtherDaemon(Event):
    """Another daemon uses the same data directory, which is supported if it is intended."""

    pid: Annotated[int, FieldInfo("Number of its process, in its own container or on its host.")]
    host: Annotated[str, FieldInfo("Name of this container or host.", 64)]
    started: Annotated[str, FieldInfo("Time of its start, RFC 3339.", 64)]


@event("warning.limits", level=Level.WARNING)
class WarningLimits(Event):
    """Listeners serve fewer connections than their settings, for lack of file descriptors."""

    reason: Reason


@event("warning.task", level=Level.ERROR)
class WarningTask(Event):
    """Background work failed. It is restarted, or the daemon ends with exit status 1."""

    task: Annotated[str, FieldInfo("Name of the work.", characters=128)]
    error: Annotated[str, FieldInfo("Type of the exception.", characters=128)]
    reason: Reason
    restarts_in_seconds: RestartSeconds | None

"""Answers to HTTP clients: status and variant of each error, with its meaning and remedy.

Source: wire-rcar.md, "Errors". Guests read the JSON body of 401 everywhere, and of every
other status at a resource. docs/reference/kbs-errors.md is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from verdictd_py.errors import (
    AlreadyExists,
    AppraisalTimeout,
    AttestationError,
    AuditUnavailable,
    ClockBehind,
    CollateralUnavailable,
    Conflict,
    GuestRefused,
    InternalError,
    NotAuthorized,
    NotFound,
    Overloaded,
    PolicyInvalid,
    PolicyUnavailable,
    ProtocolVersionRefused,
    RequestError,
    SessionInvalid,
    SessionMissing,
    StorageError,
    TokenInvalid,
    VerdictdError,
)
from verdictd_py.protocols.rcar import messages

JSON: Final = "application/json"

INTERNAL: Final = 500
"""Status of the broker's own errors. A guest gets `TRY_AGAIN` instead, which is never a verdict."""

TRY_AGAIN: Final = 503


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer to one type of error.

    Attributes:
        variant: upstream's name of the error, the end of the body's `type`.
        meaning, remedy: texts of the reference page for operators.
    """

    kind: type[VerdictdError]
    status: int
    variant: str
    meaning: str
    remedy: str


REFUSALS: Final = (
    Refusal(
        ProtocolVersionRefused,
        401,
        "AttestationError",
        "The guest uses a version of the protocol that is not served.",
        "Use guest-components v0.10 to v0.21 (0.1.1, 0.2.0 or 0.4.0) in the guest.",
    ),
    Refusal(
        GuestRefused,
        401,
        "AttestationError",
        "The guest was appraised and refused; the body has the code and the appraisal's id.",
        "`verdict-py explain <id>` lists every rule that failed.",
    ),
    Refusal(
        AttestationError,
        401,
        "AttestationError",
        "The TEE is not served here.",
        "Enable its verifier with --verifier; the body names what is missing.",
    ),
    Refusal(
        SessionMissing,
        401,
        "TokenNotFound",
        "The request has neither a session nor a token, like every guest's first request.",
        "None if the guest then attests. Otherwise its cookie is lost: check proxies.",
    ),
    Refusal(
        SessionInvalid,
        401,
        "TokenNotFound",
        "The session is unknown or expired (five minutes), or its challenge was answered already.",
        "None if the guest attests again. Brokers behind one address need --kbs-sessions.",
    ),
    Refusal(
        TokenInvalid,
        401,
        "TokenVerifierError",
        "The token has expired (five minutes), or another key signed it.",
        "Attest again. Brokers behind one address need the same --kbs-token-key.",
    ),
    Refusal(
        NotAuthorized,
        403,
        "PolicyDeny",
        "The release policy denies this to the guest, whether it exists or not.",
        "The log event `release.refused` has the reasons; see `opa/releasePolicy.rego`.",
    ),
    Refusal(
        NotFound,
        404,
        "PluginInternalError",
        "Nothing with this name is stored.",
        "Store it with `verdict-py resource set`, or create a key with `verdict-py key create`.",
    ),
    Refusal(
        PolicyInvalid,
        400,
        "ParsePolicyError",
        "The policy or the reference data cannot be used; the old one stays in force.",
        "Fix the problem that the body names.",
    ),
    Refusal(
        AlreadyExists,
        409,
        "PluginInternalError",
        "Something with this name exists already, and is not replaced.",
        "Choose another name, or delete it first.",
    ),
    Refusal(
        Conflict,
        409,
        "PluginInternalError",
        "The stored content has changed since the client read it; nothing was stored.",
        "Read it again, and repeat the change.",
    ),
    Refusal(
        RequestError,
        400,
        "SerdeError",
        "The request is malformed.",
        "Fix the problem that the body names. Guests of a served version do not send this.",
    ),
    Refusal(
        ClockBehind,
        503,
        "AttestationError",
        "The guest cannot be appraised now: this host's clock is behind the vendor's.",
        "Check this host's clock; the log event `guest.not-judged` has both times.",
    ),
    Refusal(
        CollateralUnavailable,
        503,
        "AttestationError",
        "The guest cannot be appraised now: the collateral for its platform is missing, expired, "
        "or does not verify.",
        "Guests try again by themselves; see the log event `guest.not-judged`.",
    ),
    Refusal(
        PolicyUnavailable,
        503,
        "AttestationError",
        "The guest cannot be appraised now: a policy or its data is missing, unreadable or broken.",
        "`verdict-py status` names the document and the problem; guests try again by themselves.",
    ),
    Refusal(
        AuditUnavailable,
        503,
        "AttestationError",
        "The guest cannot be appraised now: the audit trail cannot be written.",
        "Check disk space and rights of the directory `audit`; guests try again by themselves.",
    ),
    Refusal(
        InternalError,
        503,
        "AttestationError",
        "The guest cannot be appraised now: an internal error, such as too many open files.",
        "See the log events `guest.not-judged` and `warning.bug`; guests try again by themselves.",
    ),
    Refusal(
        AppraisalTimeout,
        503,
        "AttestationError",
        "The appraisal took longer than `--appraisal-timeout`.",
        "Guests try again by themselves; check whether the collateral service is slow.",
    ),
    Refusal(
        Overloaded,
        503,
        "AttestationError",
        "The broker is overloaded, or stopping.",
        "Guests try again by themselves.",
    ),
    Refusal(
        StorageError,
        INTERNAL,
        "PluginInternalError",
        "The requested secret, or the session, cannot be read or written.",
        "The log has the reason; usual ones are a key of the wrong size and a full disk.",
    ),
)
"""Answers; the first entry that matches an error applies. Any other error is answered with
`INTERNAL` and the id of an incident.

An error of the broker's own is never 401, 403 or 404, which guests take as final (ADR 15)."""

ADMIN_REFUSED: Final = "AdminAuthAccess"
BUG: Final = "PluginInternalError"
_INVALID_PATH: Final = "InvalidRequestPath"
_INVALID_REQUEST: Final = "SerdeError"

_NO_STORE: Final = {"Cache-Control": "no-store"}  # answers may contain tokens
_SUCCEEDED: Final = {**_NO_STORE, "Content-Type": JSON}


@dataclass(frozen=True, slots=True)
class OtherRefusal:
    """Answer without a `VerdictdError`, for the reference page."""

    status: int
    variant: str
    meaning: str
    remedy: str


OTHERS: Final = (
    OtherRefusal(
        401,
        ADMIN_REFUSED,
        "An administrator's token is missing, expired, or not signed by a configured key.",
        "See [administration](../http-guests.md#administration).",
    ),
    OtherRefusal(
        403,
        ADMIN_REFUSED,
        "Administration is off, or the token's role may not do this.",
        "See [administration](../http-guests.md#administration).",
    ),
    OtherRefusal(
        404,
        _INVALID_PATH,
        "The listener does not have this path, or it is not a valid name of a resource.",
        "A resource is named <repository>/<type>/<tag>, of A-Z a-z 0-9 _ - and dots.",
    ),
    OtherRefusal(
        405,
        _INVALID_PATH,
        "The path does not support this method.",
        "See the OpenAPI description.",
    ),
    OtherRefusal(408, _INVALID_REQUEST, "The body came too slowly.", "See `--request-timeout`."),
    OtherRefusal(413, _INVALID_REQUEST, "The body is larger than 2 MiB.", "Send less."),
    OtherRefusal(
        415, _INVALID_REQUEST, "The body is compressed.", "Send it without Content-Encoding."
    ),
    OtherRefusal(
        417,
        _INVALID_REQUEST,
        "The Expect header has an unknown value.",
        "Send 100-continue, or none.",
    ),
    OtherRefusal(
        431,
        _INVALID_REQUEST,
        "The URL is longer than 8 KiB, or a header is longer than 72 KiB.",
        "Check the cookies: a proxy may have added some.",
    ),
    OtherRefusal(
        TRY_AGAIN,
        BUG,
        "In place of 500 to a guest, whose client would take 500 as final.",
        "See the two lines with 500; guests try again by themselves.",
    ),
    OtherRefusal(
        INTERNAL,
        BUG,
        "Internal error; the body has the id of the incident.",
        "Report the log event `warning.bug` with that id: it names the place in the code.",
    ),
)


def refusal_of(error: VerdictdError) -> Refusal | None:
    """Return the answer to `error`; None for errors that no client can cause."""
    return next((refusal for refusal in REFUSALS if isinstance(error, refusal.kind)), None)


def failed(status: int, variant: str, detail: str) -> web.Response:
    """Create the answer to a failed request, with the body that clients expect."""
    headers = _NO_STORE | ({"Retry-After": "5"} if status == TRY_AGAIN else {})
    return web.Response(
        status=status, body=messages.error(variant, detail), content_type=JSON, headers=headers
    )


def refused(status: int, detail: str, allow: str | None = None) -> web.Response:
    """Create the answer to a request that is refused at the level of HTTP.

    Args:
        allow: the methods that the path supports.
    """
    variant = BUG if status >= 500 else _INVALID_PATH if status in {404, 405} else _INVALID_REQUEST
    answer = failed(status, variant, detail)
    if allow is not None:
        answer.headers["Allow"] = allow
    return answer


def succeeded(body: bytes) -> web.Response:
    """Create an answer with status 200 and a JSON body."""
    return web.Response(body=body, headers=_SUCCEEDED)

"""What HTTP clients are answered: status, variant and text of each of our errors.

Source: wire-rcar.md, "Errors". Guests read the JSON body of 401 everywhere, and of every
other status at a resource; docs/reference/kbs-errors.md tells operators what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from verdictd_py.errors import (
    AlreadyExists,
    AppraisalTimeout,
    AttestationError,
    CollateralUnavailable,
    Conflict,
    GuestRefused,
    NotAuthorized,
    NotFound,
    Overloaded,
    PolicyInvalid,
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one kind of error is answered, and what to do about it.

    Attributes:
        variant: upstream's name, the end of the body's `type`.
        meaning, remedy: for people; the reference is made of them.
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
        "The guest speaks a version of the protocol that is not served.",
        "Serve it with guest-components v0.10 to v0.21 (0.1.1, 0.2.0 or 0.4.0).",
    ),
    Refusal(
        GuestRefused,
        401,
        "AttestationError",
        "The guest was judged and refused; the body says its code and the id of the appraisal.",
        "`verdict-py explain <id>` shows every rule that failed.",
    ),
    Refusal(
        AttestationError,
        401,
        "AttestationError",
        "The TEE is not served here.",
        "Name its verifier with --verifier; the body says what is missing.",
    ),
    Refusal(
        SessionMissing,
        401,
        "TokenNotFound",
        "No session and no token. Every guest's first request is answered so: it then attests.",
        "Nothing, where the guest goes on; else its cookie got lost on the way (a proxy?).",
    ),
    Refusal(
        SessionInvalid,
        401,
        "TokenNotFound",
        "The session is over (five minutes), unknown, or its challenge was answered already.",
        "Nothing, where the guest attests anew; brokers behind one address need --kbs-sessions.",
    ),
    Refusal(
        TokenInvalid,
        401,
        "TokenVerifierError",
        "The token is over (five minutes), or another key signed it.",
        "Attest anew; brokers behind one address need one --kbs-token-key.",
    ),
    Refusal(
        NotAuthorized,
        403,
        "PolicyDeny",
        "The release policy keeps this from the guest, whether it is there or not.",
        "The log's `release.refused` says why; see `opa/releasePolicy.rego`.",
    ),
    Refusal(
        NotFound,
        404,
        "PluginInternalError",
        "There is nothing of this name.",
        "Set it: `verdict-py resource set`, or create the key: `verdict-py key create`.",
    ),
    Refusal(
        PolicyInvalid,
        400,
        "ParsePolicyError",
        "The policy or the reference data cannot be used; the one before stays in force.",
        "Mend what the body says.",
    ),
    Refusal(
        AlreadyExists,
        409,
        "PluginInternalError",
        "Something of this name is there already, and is not replaced.",
        "Choose another name, or delete it first.",
    ),
    Refusal(
        Conflict,
        409,
        "PluginInternalError",
        "What was to be changed has changed meanwhile; nothing was stored.",
        "Read it again, and repeat the change.",
    ),
    Refusal(
        RequestError,
        400,
        "SerdeError",
        "The request has not the shape that it must have.",
        "Mend what the body says; guests of a version that is served do not send this.",
    ),
    Refusal(
        CollateralUnavailable,
        503,
        "AttestationError",
        "The guest cannot be judged now: there is no collateral for its platform.",
        "Guests try again by themselves; see the log's `guest.not-judged`.",
    ),
    Refusal(
        AppraisalTimeout,
        503,
        "AttestationError",
        "Judging the guest took longer than `--appraisal-timeout`.",
        "Guests try again by themselves; is the collateral service slow?",
    ),
    Refusal(
        Overloaded,
        503,
        "AttestationError",
        "The broker is too slow, or stopping.",
        "Guests try again by themselves.",
    ),
    Refusal(
        StorageError,
        500,
        "PluginInternalError",
        "What was asked for, or the sessions, cannot be read or written.",
        "The log says which; a key of a wrong size and a full disk are the usual ones.",
    ),
)
"""The first whose kind fits. Everything else is our bug: 500, with the id of an incident."""

ADMIN_REFUSED: Final = "AdminAuthAccess"
BUG: Final = "PluginInternalError"
_INVALID_PATH: Final = "InvalidRequestPath"
_NO_REQUEST: Final = "SerdeError"

_NO_STORE: Final = {"Cache-Control": "no-store"}  # tokens among them


@dataclass(frozen=True, slots=True)
class OtherRefusal:
    """What is answered without an error of ours, for the reference."""

    status: int
    variant: str
    meaning: str
    remedy: str


OTHERS: Final = (
    OtherRefusal(
        401,
        ADMIN_REFUSED,
        "Administration without a token, or with one that is over or of a key not configured.",
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
        "That is no path of this listener, or no name of a resource.",
        "A resource is named <repository>/<type>/<tag>, of A-Z a-z 0-9 _ - and dots.",
    ),
    OtherRefusal(
        405, _INVALID_PATH, "The path has no such method.", "See the OpenAPI description."
    ),
    OtherRefusal(408, _NO_REQUEST, "The body came too slowly.", "See `--request-timeout`."),
    OtherRefusal(413, _NO_REQUEST, "The body is larger than 2 MiB.", "Send less."),
    OtherRefusal(415, _NO_REQUEST, "The body is compressed.", "Send it without Content-Encoding."),
    OtherRefusal(417, _NO_REQUEST, "An Expect that nobody knows.", "Send 100-continue, or none."),
    OtherRefusal(
        431,
        _NO_REQUEST,
        "The address is longer than 8 KiB, or a header than 72 KiB.",
        "Look at the cookies: a proxy may have added some.",
    ),
    OtherRefusal(
        500,
        BUG,
        "A bug of the broker's; the body has the id of an incident.",
        "The log's `warning.bug` with that id says where; report it.",
    ),
)


def refusal_of(error: VerdictdError) -> Refusal | None:
    """How `error` is answered; None for what no client can cause."""
    return next((each for each in REFUSALS if isinstance(error, each.kind)), None)


def failed(status: int, variant: str, detail: str) -> web.Response:
    """An answer that is no success, with the body that every client looks for."""
    headers = _NO_STORE | ({"Retry-After": "5"} if status == 503 else {})
    return web.Response(
        status=status, body=messages.error(variant, detail), content_type=JSON, headers=headers
    )


def refused(status: int, detail: str, allow: str | None = None) -> web.Response:
    """An answer to what is wrong with HTTP, not with what it carries.

    Args:
        allow: the methods that there are.
    """
    variant = BUG if status >= 500 else _INVALID_PATH if status in {404, 405} else _NO_REQUEST
    answer = failed(status, variant, detail)
    if allow is not None:
        answer.headers["Allow"] = allow
    return answer


def succeeded(body: bytes) -> web.Response:
    """200 with JSON."""
    return web.Response(body=body, content_type=JSON, headers=_NO_STORE)

"""Routes for operators' tools: `kbs-client config ...`, and coco_keyprovider's new keys.

They are off until keys are configured. They offer use cases of the client API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from aiohttp import web

from verdictd_py.broker.administration import Administration
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import (
    JsonValue,
    decode_base64,
    decode_base64url,
    decode_object,
    encode_base64url,
    encode_object,
    quoted,
)
from verdictd_py.errors import NotAuthorized, NotFound, RequestError, TokenInvalid
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.kbs.bodies import receive
from verdictd_py.listeners.kbs.guests import PREFIX, RESOURCE, bearer, resource_path
from verdictd_py.offload import offload
from verdictd_py.ports import Tees
from verdictd_py.protocols.rcar.admins import Administrator, AdminKeys, Role

RELEASE_POLICY: Final = "releasePolicy.rego"

_DEFAULT_IDS: Final = ("default", "default_cpu")
"""Ids of the default TEE's policy: of kbs-client until v0.18, and of later versions."""

_RV_VERSION: Final = "0.1.0"
_RV_TYPE: Final = "sample"


def policy_ids(tees: Tees) -> tuple[str, ...]:
    """Return the accepted values of `policy_id`."""
    return (*_DEFAULT_IDS, *tees.names)


class AdminRoutes:
    """Handlers of operators' requests; each authenticates its caller first.

    Args:
        admins: returns the keys of the current administrators.
    """

    def __init__(
        self,
        administration: Administration,
        admins: Callable[[], AdminKeys],
        clock: Callable[[], datetime],
    ) -> None:
        self._administration = administration
        self._admins = admins
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(RESOURCE, self.set_resource),
            web.delete(RESOURCE, self.delete_resource),
            web.get(PREFIX + "/resource-policy", self.resource_policy, allow_head=False),
            web.post(PREFIX + "/resource-policy", self.set_resource_policy),
            web.post(PREFIX + "/attestation-policy", self.set_attestation_policy),
            web.post(PREFIX + "/reference-value", self.set_reference_value),
            web.get(PREFIX + "/reference-value", self.reference_values, allow_head=False),
            web.get(PREFIX + "/reference-value/{name:.+}", self.reference_value, allow_head=False),
        ]

    @property
    def _policies(self) -> DocumentAdministrator:
        return self._administration.documents

    def _administrator(self, request: web.Request) -> Administrator:
        return self._admins().authenticate(bearer(request), now=self._clock())

    async def set_resource(self, request: web.Request) -> web.Response:
        """Store the body as a resource; the role `register` stores it as a new key instead.

        With `?force=true` it is stored although no guest can use it.
        """
        administrator = self._administrator(request)
        path = resource_path(request)
        force = _force(request)
        caller = administrator.require_resource(str(path))
        content = SecretBytes(await receive(request))
        if administrator.role is Role.REGISTER:
            await self._administration.keys.register(caller, str(path), content)
        else:
            await self._administration.resources.set(caller, str(path), content, force=force)
        return web.Response()

    async def delete_resource(self, request: web.Request) -> web.Response:
        administrator = self._administrator(request)
        path = resource_path(request)
        caller = administrator.require_resource(str(path), deleting=True)
        await self._administration.resources.delete(caller, str(path))
        return web.Response()

    async def resource_policy(self, request: web.Request) -> web.Response:
        """Answer with the release policy in base64url, as `set_resource_policy` takes it."""
        caller = self._administrator(request).require_policies()
        text = await self._policies.get(caller, RELEASE_POLICY)
        return answers.succeeded(encode_object({"policy": encode_base64url(text.encode())}))

    async def set_resource_policy(self, request: web.Request) -> web.Response:
        """Check and store the release policy: `{"policy"}`."""
        caller = self._administrator(request).require_policies()
        members = await _members(request)
        await self._policies.set_policy(caller, RELEASE_POLICY, _policy(members))
        return web.Response()

    async def set_attestation_policy(self, request: web.Request) -> web.Response:
        """Check and store the appraisal policy of a TEE: `{"type":"rego","policy_id","policy"}`."""
        caller = self._administrator(request).require_policies()
        members = await _members(request)
        if members.get("type") != "rego":
            raise RequestError("a policy has the type rego")
        policy_id = str(members.get("policy_id"))
        tees = self._policies.tees
        tee = tees.default if policy_id in _DEFAULT_IDS else tees.get(policy_id)
        if tee is None:
            known = ", ".join(policy_ids(tees))
            raise RequestError(f"there is no policy_id {quoted(policy_id)}; there are {known}")
        await self._policies.set_policy(caller, tee.documents.policy, _policy(members))
        return web.Response()

    async def set_reference_value(self, request: web.Request) -> web.Response:
        """Replace the values of names: `{"version","type":"sample","payload"}`."""
        caller = self._administrator(request).require_policies()
        members = await _members(request)
        if members.get("version", _RV_VERSION) != _RV_VERSION or members.get("type") != _RV_TYPE:
            raise RequestError(f"reference values have version {_RV_VERSION} and type {_RV_TYPE}")
        payload = members.get("payload")
        if not isinstance(payload, str):
            raise RequestError("the request has no payload")
        values = await offload(len(payload), partial(_decode_payload, payload))
        tee = self._policies.tees.default.name
        await self._administration.references.replace(caller, tee, values)
        return web.Response()

    async def reference_value(self, request: web.Request) -> web.Response:
        """Answer with the values of one name in the reference data."""
        values = (await self._reference(request)).get(request.match_info["name"])
        if values is None:
            raise NotFound("there are no reference values of this name")
        return answers.succeeded(json.dumps(values).encode())

    async def reference_values(self, request: web.Request) -> web.Response:
        """Answer with the whole reference data: kbs-client v0.14 to v0.17 sends no name."""
        return answers.succeeded(encode_object(await self._reference(request)))

    async def _reference(self, request: web.Request) -> dict[str, JsonValue]:
        caller = self._administrator(request).require_policies()
        tee = self._policies.tees.default.name
        stored = (await self._administration.references.view(caller, tee)).stored
        return decode_object(stored.encode(), "the stored reference data")


def is_refused_admin(request: web.Request, error: Exception) -> bool:
    """Return whether `error` refuses an administrator, which has another variant than a guest's."""
    is_guests = request.method == "GET" and request.path.startswith(PREFIX + "/resource/")
    return isinstance(error, NotAuthorized | TokenInvalid) and not is_guests


def _force(request: web.Request) -> bool:
    """Return whether the query has `force=true`.

    Raises:
        RequestError: it has another value.
    """
    values = request.query.getall("force", ["false"])
    if values not in (["true"], ["false"]):
        raise RequestError("the query's force is true or false")
    return values == ["true"]


async def _members(request: web.Request) -> dict[str, JsonValue]:
    body = await receive(request)
    return await offload(len(body), partial(decode_object, body, "the request"))


def _decode_payload(payload: str) -> dict[str, JsonValue]:
    return decode_object(decode_base64(payload, "the payload"), "the payload")


def _policy(members: dict[str, JsonValue]) -> bytes:
    encoded = members.get("policy")
    try:
        return decode_base64url(encoded if isinstance(encoded, str) else "")
    except ValueError:
        raise RequestError("the policy is missing, or not base64url without padding") from None

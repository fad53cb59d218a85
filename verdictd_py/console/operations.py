"""Calls of the management API in the name of a person who is signed in to the console.

The methods are those that gRPC serves, with their checks of rights, their limits and their records
in the audit trail. The console changes nothing in another way, so that it can do nothing that
`verdict-py` would be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import Message

from verdictd_py.domain.callers import Caller
from verdictd_py.listeners.admission import required
from verdictd_py.listeners.callers import CallContext, CallerRules

Register = Callable[[grpc.aio.Server, CallerRules], None]
"""Adds services to a server; the rules identify the callers."""


class OperationFailed(Exception):
    """The management API refused an operation, or it failed.

    Attributes:
        status: status of gRPC.
        text: cause and remedy, for the person.
    """

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class _PersonRules(CallerRules):
    """Rules for calls that come from the console itself, which knows the caller."""

    def caller(self, context: CallContext) -> Caller:
        return cast("_Context", context).caller


class _Context:
    """Context of a call, with the part of gRPC's that the services use."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def peer(self) -> str:
        return "console"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise OperationFailed(code, details)


class _Methods:
    """Stand-in for a gRPC server, which remembers the methods that are registered."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore the services of generated code, which also registers their methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self.by_name[f"{service}/{name}"] = handler.unary_unary


class Operations:
    """The methods of the management API.

    Args:
        register: adds the services.
    """

    def __init__(self, register: Register) -> None:
        methods = _Methods()
        register(cast("grpc.aio.Server", methods), _PersonRules())
        self._methods = methods.by_name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all methods, `verdictd.v1.KeyService/ListKeys`."""
        return tuple(self._methods)

    def of(self, caller: Caller) -> OperationsOf:
        """Return the operations in the name of `caller`."""
        return OperationsOf(self, caller)

    async def call(self, caller: Caller, method: str, request: Message) -> Any:  # noqa: ANN401
        """Call a method and return its answer.

        Raises:
            OperationFailed: it was refused, or it failed.
        """
        handler = self._methods[method]
        right = required(handler)
        if right is not None and right not in caller.rights:
            text = f"{caller.name} has no right to {right}"
            raise OperationFailed(grpc.StatusCode.PERMISSION_DENIED, text)
        return await handler(request, _Context(caller))


@dataclass(frozen=True, slots=True)
class OperationsOf:
    """The operations of one person (see `requests.Calls`)."""

    _operations: Operations
    caller: Caller

    async def call(self, method: str, request: Message) -> Any:  # noqa: ANN401  # of that method
        """Call a method and return its answer.

        Raises:
            OperationFailed: it was refused, or it failed.
        """
        return await self._operations.call(self.caller, method, request)

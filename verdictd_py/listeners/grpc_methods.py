"""Methods of a gRPC server, each of which admits its callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import grpc

from verdictd_py.listeners import messages

UNIMPLEMENTED: Final = "unimplemented"
"""Name of the status of a call of an unknown method, which gRPC answers itself."""

Handler = Any
"""`grpc.RpcMethodHandler`; the stubs of gRPC lack its attributes."""


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """All methods of a server by their full names.

    It replaces what gRPC does for each call: it would look for the method in every service, run
    interceptors that make a new handler, and watch one task for each registered method.

    Args:
        admit: returns the handler that admits the callers of a method; it gets the method's name
            and its own handler.
        unknown: called for each call of a method that the server does not have.
    """

    def __init__(
        self,
        admit: Callable[[str, Handler], Handler],
        unknown: Callable[[], None] = lambda: None,
    ) -> None:
        self._admit = admit
        self._unknown = unknown
        self._methods: dict[str, Handler] = {}

    @property
    def server(self) -> grpc.aio.Server:
        """This object, for the generated code that adds a service to a server."""
        return cast("grpc.aio.Server", self)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore the services of generated code, which also registers their methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the methods of a service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._methods[method] = self._admit(name, messages.limited(method, handler))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        handler = self._methods.get(handler_call_details.method)
        if handler is None:
            self._unknown()
        return handler

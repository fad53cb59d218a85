"""Environment variables that Kubernetes sets in pods for each Service (service links).

A Service `verdictd-kbs` with a port 8080 that is named `http` gives each pod of its namespace

    VERDICTD_KBS_SERVICE_HOST=10.96.0.7          VERDICTD_KBS_PORT=tcp://10.96.0.7:8080
    VERDICTD_KBS_SERVICE_PORT=8080               VERDICTD_KBS_PORT_8080_TCP=tcp://10.96.0.7:8080
    VERDICTD_KBS_SERVICE_PORT_HTTP=8080          VERDICTD_KBS_PORT_8080_TCP_PROTO=tcp
                                                 VERDICTD_KBS_PORT_8080_TCP_PORT=8080
                                                 VERDICTD_KBS_PORT_8080_TCP_ADDR=10.96.0.7

Source: kubernetes, pkg/kubelet/envvars/envvars.go (1.37).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

_HOST: Final = "SERVICE_HOST"

_PORT: Final = r"[1-9][0-9]{0,4}"
_PROTOCOL: Final = r"(?:TCP|UDP|SCTP)"
_URL: Final = re.compile(rf"(?:tcp|udp|sctp)://(?:[0-9.]+|\[[0-9a-f:.]+\]):{_PORT}")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch(_PORT, value) is not None


def _is_url(value: str) -> bool:
    return _URL.fullmatch(value) is not None


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = (
    (re.compile(_HOST), _is_address),
    (re.compile(r"SERVICE_PORT(?:_[A-Z0-9_]+)?"), _is_port),
    (re.compile(rf"PORT(?:_{_PORT}_{_PROTOCOL})?"), _is_url),
    (re.compile(rf"PORT_{_PORT}_{_PROTOCOL}_PROTO"), ("tcp", "udp", "sctp").__contains__),
    (re.compile(rf"PORT_{_PORT}_{_PROTOCOL}_PORT"), _is_port),
    (re.compile(rf"PORT_{_PORT}_{_PROTOCOL}_ADDR"), _is_address),
)
"""What follows the name of the Service in a variable, and which values Kubernetes gives it."""


def service_links(environment: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the variables that Kubernetes set for Services.

    A variable counts if its name and its value have the form of Kubernetes, and if the
    variable with the address of the same Service is there, too. A misspelled setting has
    neither: `VERDICTD_LISTEN_PORT=1234` is not a service link.
    """
    services = [
        name.removesuffix(_HOST)
        for name, value in environment.items()
        if name.endswith("_" + _HOST) and _is_address(value)
    ]
    return frozenset(
        name
        for name, value in environment.items()
        if any(
            name.startswith(service) and _has_form(name.removeprefix(service), value)
            for service in services
        )
    )


def _has_form(ending: str, value: str) -> bool:
    return any(form.fullmatch(ending) and is_valid(value) for form, is_valid in _FORMS)

"""Variables of Kubernetes' service links (formats/servicelinks.py), and what is none."""

from __future__ import annotations

import pytest

from verdictd_py.config import ENVIRONMENT_PREFIX, Settings
from verdictd_py.formats.servicelinks import service_links


def links(service: str, host: str = "10.96.0.7") -> dict[str, str]:
    """The variables of a Service with the ports 8080 (named http) and 60000."""
    shown = f"[{host}]" if ":" in host else host
    variables = {
        f"{service}_SERVICE_HOST": host,
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP": "8080",
        f"{service}_SERVICE_PORT_CLIENT_API": "60000",
        f"{service}_PORT": f"tcp://{shown}:8080",
    }
    for port in ("8080", "60000"):
        for protocol in ("tcp", "udp", "sctp"):
            name = f"{service}_PORT_{port}_{protocol.upper()}"
            variables |= {
                name: f"{protocol}://{shown}:{port}",
                f"{name}_PROTO": protocol,
                f"{name}_PORT": port,
                f"{name}_ADDR": host,
            }
    return variables


@pytest.mark.parametrize("host", ["10.96.0.7", "fd00:10:96::7"])
@pytest.mark.parametrize(
    "service", ["VERDICTD", "VERDICTD_KBS", "VERDICTD_KBS_HTTP", "VERDICTD_2", "VERDICTD_PY"]
)
def test_every_variable_of_a_service_is_a_link(service: str, host: str) -> None:
    variables = links(service, host)

    assert service_links({**variables, "HOME": "/"}) == variables.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VERDICTD_LISTEN_PORT", "1234"),  # a misspelled setting, not an URL
        ("VERDICTD_PORT", "1234"),
        ("VERDICTD_PORT", "tcp://broker:1234"),
        ("VERDICTD_SERVICE_HOST", "broker.example"),
        ("VERDICTD_SERVICE_PORT", "tcp://10.96.0.7:8080"),
        ("VERDICTD_PORT_8080_TCP_ADDR", "broker"),
        ("VERDICTD_PORT_8080_HTTP", "tcp://10.96.0.7:8080"),
        ("VERDICTD_SERVICE", "10.96.0.7"),
    ],
)
def test_a_variable_with_another_name_or_value_is_none(name: str, value: str) -> None:
    assert name not in service_links({**links("VERDICTD"), name: value})


@pytest.mark.parametrize("name", ["VERDICTD_SERVICE_HOST", "VERDICTD_LISTEN_SERVICE_HOST"])
def test_without_the_address_of_its_service_a_variable_is_none(name: str) -> None:
    variables = links("VERDICTD_LISTEN" if "LISTEN" in name else "VERDICTD")
    del variables[name]

    assert not service_links(variables)


def test_a_host_that_is_no_address_makes_no_service() -> None:
    assert not service_links({**links("VERDICTD"), "VERDICTD_SERVICE_HOST": "broker.example"})


def test_no_setting_looks_like_a_link() -> None:
    """Otherwise the name of a Service could replace a setting, or hide it."""
    settings = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    for value in ("10.96.0.7", "8080", "tcp://10.96.0.7:8080", "tcp"):
        environment = dict.fromkeys(settings, value)

        assert not service_links({**links("VERDICTD"), **environment}) & settings

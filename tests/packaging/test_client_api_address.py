"""README, guide, sample files, container and programs agree on one address of the client API."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from verdictd_py.config import Settings
from verdictd_py.domain.addresses import CLIENT_API_WITHOUT_IPV6, DEFAULT_CLIENT_API

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/guide.md", "docs/operations.md")

_GIVEN = re.compile(
    r"(?:--client-api|\s-c)[ =](\S+)|\"grpc\": \"([^\"]+)\"|VERDICTD_CLIENT_API=(\S+)"
)


def addresses(text: str) -> list[str]:
    """Return the addresses that a text gives to programs, without placeholders."""
    given = ("".join(match.groups(default="")) for match in _GIVEN.finditer(text))
    return [address.strip("`'\"),.;") for address in given if re.search(r":\d", address)]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_gives_another_address(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")

    assert set(addresses(text)) <= {DEFAULT_CLIENT_API, CLIENT_API_WITHOUT_IPV6}
    assert DEFAULT_CLIENT_API in text


def test_the_sample_for_image_tools_names_it() -> None:
    sample = json.loads((ROOT / "docs/ocicrypt_keyprovider.conf").read_text("utf-8"))

    assert sample["key-providers"]["attestation-agent"]["grpc"] == DEFAULT_CLIENT_API


def test_the_container_has_a_socket_of_its_own_outside_its_volume() -> None:
    """Two containers on one volume would otherwise have one socket."""
    recipe = (ROOT / "Containerfile").read_text("utf-8")
    found = re.findall(r"^ENV VERDICTD_(\w+)=(.*)$", recipe, re.MULTILINE)

    assert ("CLIENT_API", "unix:/run/verdictd-py/client-api.sock") in found
    assert ("DATA_DIR", "/opt/verdictd/data") in found
    assert 'VOLUME ["/opt/verdictd", "/run/verdictd-py"]' in recipe
    # A chart sets this variable for the compiled engine; CACHE_DIRECTORY would override it.
    assert "\nENV XDG_CACHE_HOME=/opt/verdictd/data/.cache\n" in recipe
    assert "CACHE_DIRECTORY" not in recipe


def test_the_daemon_has_it() -> None:
    first, second = Settings().client_api_addresses

    assert (str(first), str(second)) == (DEFAULT_CLIENT_API, CLIENT_API_WITHOUT_IPV6)


def test_an_address_is_recognized() -> None:
    """Otherwise the first test passes on every page."""
    text = 'verdictd-py --client-api 1.2.3.4:5\n verdict-py -c [::1]:6 x\n {"grpc": "a:7"}'

    assert addresses(text) == ["1.2.3.4:5", "[::1]:6", "a:7"]

"""Every page in Chromium: no violation of its policy, none of axe-core, at each width and theme.

`./dev console` installs what these tests need, and sets the variables that name it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: ./dev console")

AXE: Final = Path(os.environ.get("CONSOLE_AXE", "missing"))
CHROMIUM: Final = Path(os.environ.get("CONSOLE_CHROMIUM", "/usr/bin/chromium"))
SHOTS: Final = os.environ.get("CONSOLE_SHOTS", "")

pytestmark = [
    pytest.mark.skipif(not AXE.is_file(), reason="axe-core is missing: ./dev console"),
    pytest.mark.skipif(not CHROMIUM.is_file(), reason="chromium is missing: ./dev console"),
]

SIZES: Final = ((360, 740), (1280, 900))
DOCUMENTED: Final = {
    "guest-1280-light": 1060,
    "guest-360-dark": 1100,
    "overview-1280-light": 1000,
    "reference-1280-dark": 900,
    "release-1280-light": 800,
    "values-compared-1280-light": 860,
}
"""Height in pixels of the pictures in docs/console, by name."""

THEMES: Final = ("light", "dark")
PATHS: Final = {
    "overview": "/",
    "guests": "/guests?verdict=",
    "guest": "",  # a refused one
    "boot": "",  # a refused one with the log of its boot
    "accepted": "",
    "reference": "/reference",
    "policies": "",  # tested with the refused one
    "release": "",  # of the accepted one
    "keys": "/keys",
    "collateral": "/collateral",
    "audit": "/audit",
    "verified": "/audit?verify=1",
    "found": "/audit?event=guest.refused&text=rtmr1",
    "values-compared": "",  # an earlier revision of the reference values
    "policies-compared": "",  # an earlier revision of the policy
    "missing": "/missing",
    "login": "/login",
}


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Returns a new link to a broker with guests of every verdict, each time it is called."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.console", str(tmp_path_factory.mktemp("broker"))],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read, write = process.stdout, process.stdin
    assert read is not None
    assert write is not None
    links = [json.loads(read.readline())["link"]]

    def new() -> str:
        if not links:
            write.write("\n")
            write.flush()
            links.append(json.loads(read.readline())["link"])
        return str(links.pop())

    yield new
    _, errors = process.communicate()
    assert not errors.strip(), errors  # internal errors of the broker


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--lang=en"]
        )
        yield running
        running.close()


class Signed:
    """A person who is signed in, and the addresses of the pages."""

    def __init__(self, browser: Any, link: str) -> None:
        self.base = link.partition("/login")[0]
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        page.get_by_role("button", name="Sign in").click()
        self.state = context.storage_state()
        refused = self._guest(page, "/guests?verdict=refused&rule=rtmr1", 1)
        accepted = self._guest(page, "/guests?verdict=accepted", 0)
        self.paths = {
            **PATHS,
            "guest": refused,
            "boot": self._guest(page, "/guests?verdict=refused&rule=rtmr0", 0),
            "accepted": accepted,
            "policies": f"/policies?guest={refused.rpartition('/')[2]}",
            "values-compared": self._compared(page, "/reference"),
            "policies-compared": self._compared(page, self._changed_policy(page)),
            "release": f"/release?guest={accepted.rpartition('/')[2]}&path=default/key/1",
        }
        context.close()

    def _guest(self, page: Any, path: str, line: int) -> str:
        page.goto(self.base + path)
        return str(page.locator("tbody th a").nth(line).get_attribute("href"))

    def _changed_policy(self, page: Any) -> str:
        """Store another text of a policy; return the path of its page."""
        page.goto(self.base + "/policies")
        text = page.locator("#content")
        text.fill(f"{text.input_value()}\n# A comment of the operator.\n")
        page.get_by_role("button", name="Check and store").click()
        assert "The policy is stored." in page.locator("[role=status]").inner_text()
        return str(page.url).removeprefix(self.base)

    def _compared(self, page: Any, path: str) -> str:
        """Compare the oldest revision with the one in force; return the path of the result."""
        page.goto(self.base + path)
        page.locator("#revisions").get_by_role("link", name="Compare").last.click()
        assert page.locator("#h-diff").is_visible()
        return str(page.url).removeprefix(self.base).partition("#")[0]

    def context(self, browser: Any, **more: Any) -> Any:
        return browser.new_context(storage_state=self.state, **more)


@pytest.fixture(scope="module")
def signed(browser: Any, link: Any) -> Signed:
    return Signed(browser, link())


def shoot(page: Any, name: str, width: int) -> None:
    """Write the picture of a page, and its upper part for docs/console; of a comparison, that."""
    page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)
    if height := DOCUMENTED.get(name):
        box = page.locator("#difference")
        top = box.bounding_box()["y"] - 16 if box.count() else 0
        clip = {"x": 0, "y": top, "width": width, "height": height}
        page.screenshot(path=f"{SHOTS}/docs/{name}.png", full_page=True, clip=clip)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", PATHS)
def test_a_page_is_accessible_and_keeps_its_policy(
    browser: Any, signed: Signed, name: str, lang: str
) -> None:
    path = signed.paths[name]
    url = f"{signed.base}{path}{'&' if '?' in path else '?'}lang={lang}"
    for width, height in SIZES if lang == "en" else SIZES[:1]:
        for theme in THEMES if lang == "en" else THEMES[:1]:
            size = {"width": width, "height": height}
            context = signed.context(browser, viewport=size, color_scheme=theme)
            page = context.new_page()
            messages: list[str] = []
            requests: list[str] = []
            page.on("console", lambda message, to=messages: to.append(message.text))
            page.on("pageerror", lambda error, to=messages: to.append(str(error)))
            page.on("request", lambda request, to=requests: to.append(request.url))
            page.goto(url)
            if SHOTS and lang == "en":
                shoot(page, f"{name}-{width}-{theme}", width)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, "the page is wider than the screen"
            assert [text for text in messages if "404" not in text] == []
            assert all(each.startswith(signed.base) for each in requests)
            context.close()
            # axe-core is a script, which the policy of the page does not allow.
            context = signed.context(browser, viewport=size, color_scheme=theme, bypass_csp=True)
            page = context.new_page()
            page.goto(url)
            page.evaluate(AXE.read_text())
            found = page.evaluate("axe.run()")["violations"]
            assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
            context.close()


def test_a_refused_guest_is_pinned_by_keyboard_only(browser: Any, signed: Signed) -> None:
    context = signed.context(browser)
    page = context.new_page()
    page.goto(signed.base + signed.paths["guest"])
    assert "rtmr1 is not a reference value" in page.locator("h1").inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the content
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.textContent")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"the focus is invisible on {focused!r}"
        if focused == "Pin 2 values":
            break
    else:
        raise AssertionError("the button is not reached")
    page.keyboard.press("Enter")
    page.wait_for_url("**?done=pin")
    assert "The values are pinned." in page.locator("[role=status]").inner_text()
    assert "these values are accepted now" in page.locator("#verdict").inner_text()
    context.close()


def test_the_menu_opens_by_keyboard_on_a_phone(browser: Any, signed: Signed) -> None:
    context = signed.context(browser, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(signed.base + "/keys")
    audit = page.get_by_role("link", name="Audit", exact=True)
    assert not audit.is_visible()
    page.get_by_role("button", name="Menu").focus()
    page.keyboard.press("Enter")
    assert audit.is_visible()
    audit.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/audit")
    context.close()


def test_the_console_works_without_scripts(browser: Any, signed: Signed) -> None:
    context = signed.context(browser, java_script_enabled=False)
    page = context.new_page()
    page.goto(signed.base + "/keys")
    page.get_by_label("Name; empty for a new UUID").fill("default/key/9")
    page.get_by_role("button", name="Create").click()
    assert page.locator("code", has_text="default/key/9").first.is_visible()
    context.close()


def test_the_verification_names_its_result_first(browser: Any, signed: Signed) -> None:
    context = signed.context(browser)
    page = context.new_page()
    page.goto(signed.base + "/audit")
    page.get_by_role("link", name="Verify now").click()
    assert "No verified record was changed" in page.locator(".sub").first.inner_text()
    assert "0 problems" in page.locator("#verify h3").inner_text()
    context.close()


@pytest.mark.parametrize("form", ["csv", "jsonl", "cef"])
def test_an_export_is_saved_as_a_file_and_never_displayed(
    browser: Any, signed: Signed, form: str
) -> None:
    """The file has the records of the search, and the browser names it as the broker does."""
    context = signed.context(browser)
    page = context.new_page()
    page.goto(signed.base + "/audit?event=guest.refused")
    with page.expect_download() as saved:
        page.locator("#export").get_by_role("link", name=form.upper(), exact=True).click()
    name = saved.value.suggested_filename
    lines = Path(saved.value.path()).read_text().splitlines()
    assert re.fullmatch(rf"audit-\d{{8}}T\d{{6}}Z\.{form}", name)
    assert len([line for line in lines if "guest.refused" in line]) >= 5
    assert not any("guest.accepted" in line for line in lines)
    assert page.url.endswith("/audit?event=guest.refused")
    context.close()


def test_no_other_site_can_frame_the_console(browser: Any, signed: Signed, tmp_path: Path) -> None:
    context = signed.context(browser)
    page = context.new_page()
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="{signed.base}/keys"></iframe>')
    page.goto(frame.as_uri())
    page.wait_for_load_state()
    assert not any("default/key" in each.content() for each in page.frames[1:])
    context.close()

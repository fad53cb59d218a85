"""The pages of a running broker, and the changes that people make there."""

from __future__ import annotations

import re
import shlex
import threading
from html import unescape
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import elapse
from tests.support.console import (
    connect,
    connect_with_log,
    guests_of_every_kind,
    link,
    measured,
    person,
    pin_good_guest,
    visitor,
)
from tests.support.kbs import PATH, url_of
from tests.support.rcar_guests import connected, tdx_guest
from verdictd_py.broker.revisions import PAUSE_SECONDS
from verdictd_py.cli.verdict import build_parser
from verdictd_py.console import pages_guests, pages_overview, pages_reference, rendering
from verdictd_py.domain.names import ResourcePath
from verdictd_py.listeners import management_v1, v1_messages
from verdictd_py.offload import LARGE

pytestmark = pytest.mark.broker(console="127.0.0.1:0")

PATHS = ("/", "/guests", "/reference", "/policies", "/release", "/keys")


async def test_every_page_is_served_in_both_languages(broker: RunningBroker) -> None:
    await guests_of_every_kind(broker)
    async with person(broker) as someone:
        for path in PATHS:
            english = await someone.text(f"{path}?lang=en")
            chinese = await someone.text(f"{path}?lang=zh")
            assert '<html lang="en">' in english
            assert '<html lang="zh-CN">' in chinese
            assert english != chinese
    assert broker.events.named("warning.bug") == []


async def test_the_list_answers_why(broker: RunningBroker) -> None:
    await guests_of_every_kind(broker)
    async with person(broker) as someone:
        page = await someone.text("/guests")
    assert "The guest runs in debug mode: its host can read its memory." in page
    assert "rtmr2 differs from an accepted value in one digit." in page
    assert "2 times in a row" in page


async def test_a_refused_guest_is_pinned_and_then_accepted(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    await connect(broker, measurements=measured(rtmr1="new kernel"))
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{refused}")
        assert "rtmr1 is not a reference value." in page
        assert "First difference at digit" in page
        assert f"verdict-py reference pin --from {refused} --field rtmr1 --yes" in page
        answer = await someone.send(f"/guests/{refused}", f"/guests/{refused}/pin")
        assert answer.headers["Location"] == f"/guests/{refused}?done=pin"
        after = await someone.text(answer.headers["Location"])
        assert "The values are pinned." in after
        assert "these values are accepted now" in after
    (pinned,) = broker.events.named("reference.pinned")[-1:]
    assert str(pinned["caller"]).endswith("(console)")
    await connect(broker, measurements=measured(rtmr1="new kernel"))
    assert len(broker.events.named("guest.accepted")) == 2


async def test_a_pin_of_another_revision_is_refused_with_the_page(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    for kernel in ("one", "two"):
        await connect(broker, measurements=measured(rtmr1=kernel))
    first, second = (str(e["appraisal"]) for e in broker.events.named("guest.refused")[-2:])
    async with person(broker) as someone:
        stale = await someone.send(
            f"/guests/{first}", f"/guests/{first}/pin", [("revision", "00.00")]
        )
        assert stale.status_code == 409
        assert "has changed since it was read" in stale.text
        assert (await someone.send(f"/guests/{second}", f"/guests/{second}/pin")).status_code == 303


async def test_a_set_is_added_retired_and_deleted(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    await connect(broker, measurements=measured(rtmr1="new kernel"))
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    async with person(broker) as someone:
        shown = f"/guests/{refused}?field=rtmr1&set=prod-1&expires=2099-01-01T00:00:00Z"
        assert "--set prod-1 --expires 2099-01-01T00:00:00Z" in await someone.text(shown)
        answer = await someone.send(shown, f"/guests/{refused}/pin")
        assert answer.status_code == 303, answer.text
        assert "prod-1" in await someone.text("/reference")
        retired = await someone.send("/reference?retire=prod-1", "/reference/retire")
        assert retired.status_code == 303
        assert "retired" in await someone.text(retired.headers["Location"])
        deleted = await someone.send("/reference?delete=prod-1", "/reference/delete")
        assert deleted.status_code == 303, deleted.text


async def test_keys_are_created_and_deleted(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        created = await someone.send("/keys", "/keys/create", [("name", "default/key/8")])
        assert created.status_code == 303, created.text
        assert "default/key/8" in await someone.text("/keys")
        twice = await someone.send("/keys", "/keys/create", [("name", "default/key/8")])
        assert twice.status_code == 409
        assert 'value="default/key/8"' in twice.text
        deleted = await someone.send("/keys", "/keys/delete", [("delete", "default/key/8")])
        assert deleted.status_code == 303
        assert "<code>default/key/8</code></th>" not in await someone.text("/keys")
    names = [e["caller"] for e in broker.events.named("key.created")]
    assert [str(name).endswith("(console)") for name in names] == [True]


async def test_the_contents_of_secrets_are_on_no_page(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        pages = [await someone.text(path) for path in PATHS]
    assert not any("1234567890123456789012345678901" in page for page in pages)


async def test_a_policy_is_tested_and_stored(broker: RunningBroker) -> None:
    await guests_of_every_kind(broker)
    refused = str(broker.events.named("guest.refused")[-2]["appraisal"])
    async with person(broker) as someone:
        tested = await someone.text(f"/policies?name=tdxPolicy.rego&guest={refused}")
        assert "Would be refused" in tested
        assert "allow = false" in tested
        wrong = await someone.send(
            "/policies?name=tdxPolicy.rego", "/policies/set", [("content", "package policy\n{")]
        )
        assert wrong.status_code == 400
        assert "package policy\n{</textarea>" in wrong.text
        text = "package policy\n\ndefault allow := false\n"
        stored = await someone.send(
            "/policies?name=tdxPolicy.rego", "/policies/set", [("content", text)]
        )
        assert stored.status_code == 303, stored.text
    assert (broker.data / "opa" / "tdxPolicy.rego").read_text() == text


async def test_a_question_about_a_release_is_answered(broker: RunningBroker) -> None:
    await guests_of_every_kind(broker)
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/release?guest={accepted}&path=keys/default/key/1")
        assert "may have keys/default/key/1." in page
        wrong = await someone.text(f"/release?guest={accepted}&path=../../etc/passwd")
        assert "a name must have one segment" in wrong


async def test_a_guest_is_disconnected(broker: RunningBroker) -> None:
    async with broker.guest(broker.attester()) as guest:
        await guest.version()
        async with person(broker) as someone:
            answer = await someone.send("/guests", "/guests/disconnect")
            assert answer.status_code == 303, answer.text
    (event,) = broker.events.named("guest.disconnected")
    assert str(event["caller"]).endswith("(console)")


async def test_a_guest_is_found_by_its_id(broker: RunningBroker) -> None:
    await connect(broker)
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    async with person(broker) as someone:
        answer = await someone.get(f"/guests?q={accepted}&verdict=")
        assert answer.headers["Location"] == f"/guests/{accepted}"
        assert "No guest matches these filters." in await someone.text("/guests?q=nothing")


async def test_the_language_is_that_of_the_browser_until_another_is_chosen(
    broker: RunningBroker,
) -> None:
    async with visitor(broker) as someone:
        accept = {"Accept-Language": "fr, zh-TW;q=0.8, en;q=0.5"}
        chinese = await someone.get("/login", headers=accept)
        assert 'lang="zh-CN"' in chinese.text
        await someone.get("/login?lang=en")
        english = await someone.get("/login", headers={"Accept-Language": "zh"})
        assert '<html lang="en">' in english.text


async def test_the_link_is_printed_for_this_broker(broker: RunningBroker) -> None:
    url = await link(broker)
    assert url.startswith(broker.daemon.listener("console").endpoint + "/login?code=")
    assert len(broker.events.named("console.link-created")) == 1


async def test_each_displayed_command_is_one_of_verdict_py(broker: RunningBroker) -> None:
    await guests_of_every_kind(broker)
    refused = str(broker.events.named("guest.refused")[2]["appraisal"])
    shown = f"/guests/{refused}?field=rtmr1&set=a+set&expires=2099-01-01T00:00:00Z"
    commands = []
    async with person(broker) as someone:
        for path in (*PATHS, shown, f"/guests/{refused}", f"/policies?guest={refused}"):
            page = await someone.text(path)
            commands += re.findall(r'<pre class="cmd"[^>]*><code>([^<]*)</code>', page)
    ours = [unescape(each) for each in commands if each.startswith("verdict-py ")]
    assert len(ours) > 8
    for command in ours:
        build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.broker(console="127.0.0.1:0", kbs=True)
async def test_the_event_log_of_a_refused_guest_is_a_tree(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    await connect_with_log(broker)
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{refused}")
    assert "Calling EFI Application from Boot Option" in page
    assert "kernel_cmdline: /vmlinuz-6.6.59 root=/dev/vda ro console=hvc0" in page
    assert "SecureBoot (EFI_GLOBAL_VARIABLE): 1 (on)" in page
    assert "shim" not in page  # its digest covers more, so that the text is not proved
    assert page.count("replays") >= 3
    assert "Certificate chain" in page


@pytest.mark.parametrize(
    ("module", "view", "path"),
    [
        (pages_overview, "overview", "/"),
        (pages_guests, "guest_list", "/guests"),
        (pages_reference, "matrix", "/reference"),
        (v1_messages, "guest", "/guests"),
    ],
)
async def test_a_page_of_all_guests_does_not_stall_the_event_loop(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, module: object, view: str, path: str
) -> None:
    """A broker remembers 1,500 guests: their matrix takes 0.15 s, their description 0.05 s."""
    monkeypatch.setattr(management_v1, "GUEST_BYTES", LARGE)  # as if there were many
    make, threads = getattr(module, view), set[str]()

    def noted(*values: Any, **named: Any) -> Any:
        threads.add(threading.current_thread().name)
        return make(*values, **named)

    monkeypatch.setattr(module, view, noted)
    await connect(broker)
    async with person(broker) as someone:
        await someone.text(path)
    assert threads
    assert threading.main_thread().name not in threads


async def test_the_policy_of_then_is_compared_with_that_of_now(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    await connect(broker, measurements=measured(rtmr1="new kernel"))
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{refused}")
        decided = page[page.index('id="decided"') :].partition("</section>")[0]
        assert decided.count("still in force") == 2
        source = unescape((await someone.text("/policies")).partition("<textarea")[2])
        source = source.partition(">")[2].partition("</textarea>")[0].lstrip("\n")
        changed = source.rstrip() + "\n\nadded_rule := 1\n"
        values = [("name", "tdxPolicy.rego"), ("content", changed)]
        answer = await someone.send("/policies", "/policies/set", values)
        assert answer.status_code == 303, answer.text
        await elapse(PAUSE_SECONDS)
        page = await someone.text(f"/guests/{refused}")
        decided = page[page.index('id="decided"') :].partition("</section>")[0]
        assert (decided.count("still in force"), decided.count("changed since")) == (1, 1)
        path = unescape(re.findall(r'href="([^"]*#difference)"', decided)[0])
        difference = (await someone.text(path.partition("#")[0])).partition('id="difference"')[2]
        assert "added_rule := 1" in difference
        assert 'class="plus"' in difference
        assert 'class="minus"' not in difference


async def test_what_changed_since_the_accepted_boot_is_displayed(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    await connect(broker)
    await connect(broker, measurements=measured(rtmr1="new kernel"))
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{refused}")
        since = page[page.index('id="since"') :].partition("</section>")[0]
        assert accepted in since
        assert re.findall(r'<th scope="row"><code>([^<]*)', since) == ["rtmr1"]
        page = await someone.text(f"/guests/{accepted}")
        assert 'id="chain"' in page, "the certificates of an accepted guest are displayed too"


async def test_every_component_of_the_tcb_is_displayed(broker: RunningBroker) -> None:
    await connect(broker)
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{accepted}")
    table = page[page.index('id="tcb"') :].partition("</section>")[0]
    assert len(re.findall(r"<tr>", table)) >= 1 + 16 + 1 + 16 + 1
    for name in ("PCE (PCESVN)", "quoting enclave"):
        assert name in table


async def test_releases_of_a_key_are_counted(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        await someone.send("/keys", "/keys/create", [("name", "default/key/used")])
        async with broker.guest(broker.attester()) as guest:
            await guest.keks(["default/key/used"])
        page = await someone.text("/keys")
    row = page[page.index("default/key/used") :].partition("</tr>")[0]
    assert re.findall(r'data-l="Releases">(\d+)', row) == ["1"]
    assert '<time datetime="20' in row


@pytest.mark.broker(console="127.0.0.1:0", kbs=True)
async def test_releases_of_a_resource_are_counted(broker: RunningBroker) -> None:
    policy = broker.data / "image" / "policy.json"
    policy.parent.mkdir(mode=0o700, exist_ok=True)
    policy.write_text('{"default": [{"type": "reject"}]}')
    alias = ResourcePath.parse("default/security-policy/test")
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        for path in (PATH, PATH, alias):
            await session.resource(path)
    async with person(broker) as someone:
        page = await someone.text("/keys")
    for path, releases in ((PATH, "2"), (alias, "1")):
        row = page[page.index(f"<code>{path}</code>") :].partition("</tr>")[0]
        assert re.findall(r'data-l="Releases">(\d+)', row) == [releases]


async def test_a_release_policy_that_reads_the_token_is_tested(broker: RunningBroker) -> None:
    """A policy of trustee reads `submods`; without them the test refuses what a guest receives."""
    await pin_good_guest(broker)
    await connect(broker)
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    source = (
        "package policy\n\nimport rego.v1\n\ndefault allow := false\n\nallow if {\n"
        '    input.submods.cpu0["ear.trustworthiness-vector"].hardware == 2\n'
        '    input.resource.query.zone == "a"\n}\n'
    )
    async with person(broker) as someone:
        values = [("name", "releasePolicy.rego"), ("content", source)]
        path = "/policies?name=releasePolicy.rego"
        answer = await someone.send(path, "/policies/set", values)
        assert answer.status_code == 303, answer.text
        question = f"/release?guest={accepted}&path=default/key/1"
        assert "may not have default/key/1" in await someone.text(question)
        assert "may have default/key/1" in await someone.text(f"{question}&query=zone%3Da")


async def test_the_overview_displays_latency_load_and_connections(broker: RunningBroker) -> None:
    await connect(broker)
    async with broker.guest(broker.attester()) as guest, person(broker) as someone:
        await guest.version()
        page = await someone.text("/")
    latency = page[page.index('id="latency"') :].partition("</section>")[0]
    assert {"handshake", "verification", "policy"} <= set(
        re.findall(r'<th scope="row">([a-z]+)', latency)
    )
    assert "operator process" in page
    listeners = page[page.index('id="listeners"') :].partition("</section>")[0]
    rows = re.findall(r'data-l="Connections">(\d+)', listeners)
    assert int(rows[0]) == 1
    assert "attested 1" in listeners


async def test_pages_are_rendered_in_a_thread(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large page takes tenths of a second, in which the event loop serves others."""
    threads = []

    def render(*values: Any) -> str:
        threads.append(threading.current_thread())
        return rendering.render(*values)

    monkeypatch.setattr("verdictd_py.console.site.render", render)
    async with person(broker) as someone:
        for path in (*PATHS, "/collateral", "/audit"):
            await someone.text(path)
    assert len(threads) == len(PATHS) + 2
    assert threading.main_thread() not in threads

"""What the chart promises, shown on the node: `./dev cluster test`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import trustme
import yaml  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tools.cluster.apiserver import Cluster
from tools.cluster.apply import CHART, LEVELS
from tools.cluster.binaries import Failed, Programs
from tools.cluster.guests import Guests, Outage, load, watched
from tools.cluster.images import REPOSITORY
from tools.cluster.node import (
    CONFIG,
    DOMAIN,
    HOSTS,
    INSIDE,
    NODE,
    VOLUMES,
    pods_processes,
    pods_seconds,
)
from tools.torture.scenario import FAILED, Row
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform
from verdictd_py.protocols.rcar import admins

RELEASE: Final = "verdictd"
NAMESPACE: Final = "verdictd"
POD: Final = "verdictd-0"
KEY: Final = "team/signing/mykey"
RESOURCE: Final = "default/team/secret"
MADE: Final = "default/cluster/made"
"""A key that the broker makes: it is on the volume only."""
NOTE: Final = "default/cluster/note"
PREVIOUS: Final = "0.0.9"
GUESTS: Final = 50
READY_SECONDS: Final = 20.0
ROTATION_SECONDS: Final = 120.0

_HOST: Final = f"{RELEASE}.{NAMESPACE}.svc"
_PERMITTED: Final = (200, 201)
_REFUSED: Final = (401, 403)


@dataclass
class Site:
    """The release on the node, and what its operator has.

    Attributes:
        directory: private, for the files of guests and operator.
        authority: of the certificate for HTTPS.
        administrator: the key whose public half the Secret has.
    """

    cluster: Cluster
    directory: Path
    authority: trustme.CA = field(default_factory=trustme.CA)
    administrator: ed25519.Ed25519PrivateKey = field(
        default_factory=ed25519.Ed25519PrivateKey.generate
    )
    made: bytes = b""

    def __post_init__(self) -> None:
        self.ca = self.directory / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.platform = simulated_platform(self.directory / "platform", now=app.utc_now())
        self.guests = Guests(self.platform, _HOST, self.ca)

    def secret(self, name: str, files: dict[str, bytes], kind: str = "Opaque") -> None:
        """Write a Secret of the release."""
        directory = self.directory / "secret"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        for member, content in files.items():
            (directory / member).write_bytes(content)
        made = self.cluster.must(
            *("create", "secret", "generic", name, f"--from-file={directory}"),
            *(f"--type={kind}", "--dry-run=client", "--output=yaml", f"--namespace={NAMESPACE}"),
        )
        shutil.rmtree(directory)
        self.cluster.must("apply", "--server-side", "--filename=-", text=made)

    def certificate(self) -> int:
        """Write the Secret of a new certificate; return its serial number."""
        issued = self.authority.issue_cert(_HOST, f"{_HOST}.{DOMAIN}")
        chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
        files = {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}
        self.secret("verdictd-tls", files, "kubernetes.io/tls")
        return x509.load_pem_x509_certificate(chain).serial_number

    def administrators(self) -> None:
        """Write the Secret of the administrators, of whom there is one."""
        public = self.administrator.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        text = '[[key]]\nname = "ops"\npublic_key = "ops.pub"\nroles = ["operator"]\n'
        self.secret("verdictd-administrators", {"admins.toml": text.encode(), "ops.pub": pem})

    def token(self) -> str:
        """Return a token of the administrator."""
        return admins.token(
            self.administrator,
            role=admins.Role("operator"),
            now=app.utc_now(),
            lifetime=timedelta(hours=1),
        )

    def keys(self) -> tuple[bytes, bytes]:
        """Write the Secrets with a new key and a new resource; return both."""
        key, resource = os.urandom(16).hex().encode(), os.urandom(16).hex().encode()
        self.secret("team-signing", {"mykey": key})
        self.secret("team-resources", {"secret": resource})
        return key, resource

    def values(self, **changes: object) -> Path:
        """Return a file of the values of the release.

        Args:
            changes: values instead of those for simulated guests; none for the defaults.
        """
        image = {
            "repository": REPOSITORY,
            "digest": (INSIDE / "digest").read_text(),
            "pullPolicy": "Never",
        }
        values = {"image": image, "tls": {"existingSecret": "verdictd-tls"}, **changes}
        file = self.directory / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def for_guests(self) -> dict[str, Any]:
        """Return the values with which simulated guests get what is in Secrets."""
        return {
            "administrators": {"existingSecret": "verdictd-administrators"},
            "collateral": {"existingSecret": "verdictd-collateral"},
            "keys": [{"secret": "team-signing", "path": "team/signing"}],
            "resources": [{"secret": "team-resources", "path": "default/team"}],
            # The guests are simulated.
            "unsafeOptions": ["--unsafe-tdx-root-ca=/etc/verdictd-py/collateral/root.pem"],
        }

    def helm(self, *words: str) -> float:
        """Run helm for the release; return the seconds.

        Raises:
            Failed: it failed.
        """
        begin = time.monotonic()
        done = self.cluster.helm(*words, f"--namespace={NAMESPACE}")
        if done.returncode:
            raise Failed(f"helm {words[0]}: {done.stderr.strip()}\n{self.state()}")
        return time.monotonic() - begin

    def install(self, verb: str, chart: Path = CHART, **changes: object) -> float:
        """Install or upgrade the release, and wait until it is ready; return the seconds."""
        values = self.values(**changes)
        seconds = self.helm(
            verb, RELEASE, str(chart), f"--values={values}", "--wait", "--timeout=120s"
        )
        self.publish()
        return seconds

    def publish(self) -> None:
        """Give the name server the address of the Service."""
        service = self.cluster.get("service", RELEASE, f"--namespace={NAMESPACE}")
        address = service["spec"]["clusterIP"]
        (HOSTS / "services").write_text(f"{address} {_HOST} {_HOST}.{DOMAIN}\n")

    def pod(self) -> dict[str, Any]:
        """Return the broker's pod."""
        return self.cluster.get("pod", POD, f"--namespace={NAMESPACE}")

    def restarts(self) -> int:
        """Return how often its container was restarted."""
        found: int = self.pod()["status"]["containerStatuses"][0]["restartCount"]
        return found

    def ready(self) -> None:
        """Wait until the pod is ready.

        Raises:
            Failed: it takes too long.
        """
        words = ("rollout", "status", f"statefulset/{RELEASE}", "--timeout=180s")
        self.cluster.must(*words, f"--namespace={NAMESPACE}", seconds=200)

    def state(self) -> str:
        """Return what an operator would look at if the pod does not start."""
        own = f"--namespace={NAMESPACE}"
        found = (
            self.cluster.kubectl("get", "pods,pvc,events", own),
            self.cluster.kubectl("logs", POD, own, "--all-containers", "--tail=20"),
            self.cluster.kubectl("logs", POD, own, "--previous", "--tail=20"),
        )
        return "\n".join(one.stdout for one in found)


Case = Callable[[Site], AsyncIterator[Row]]


def judge(case: str, figures: str, *problems: str) -> Row:
    """Return a row that passed if no problem has a text."""
    found = [problem for problem in problems if problem]
    return Row.judged(case, "; ".join((figures, *found)), passed=not found)


def unless(condition: object, problem: str) -> str:
    """Return the problem, unless the condition is true."""
    return "" if condition else problem


def prepare(site: Site) -> None:
    """Make the namespace, the volumes and the Secrets; what an earlier test left is removed."""
    site.cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait")
    for name in (NAMESPACE, f"{RELEASE}-test"):
        site.cluster.must(
            *("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s")
        )
    site.cluster.must("delete", "persistentvolume", "--all", "--wait", "--timeout=60s")
    labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
    metadata = {"name": NAMESPACE, "labels": labels}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
        _volume("first"),
    ]
    site.cluster.must("apply", "--server-side", "--filename=-", text=yaml.safe_dump_all(objects))
    site.certificate()
    site.administrators()
    site.secret(
        "verdictd-collateral",
        {
            "collateral.json": (site.directory / "platform" / COLLATERAL_FILE).read_bytes(),
            "root.pem": (site.directory / "platform" / "root-ca.pem").read_bytes(),
        },
    )


def _volume(name: str) -> dict[str, Any]:
    """Return a volume in a new directory of the node."""
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=VOLUMES))
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "8Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(place)},
            "nodeAffinity": {"required": terms},
        },
    }


async def installation(site: Site) -> AsyncIterator[Row]:
    """Install the chart; guests get keys of Secrets, and `helm test` passes."""
    key, resource = site.keys()
    before = pods_seconds()
    seconds = await asyncio.to_thread(site.install, "install")
    processor = pods_seconds() - before
    load_average, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = load_average > cores + 1
    yield judge(
        f"`helm install {RELEASE} --wait` with the defaults: to Ready",
        f"{seconds:.1f} s, {processor:.1f} s of CPU in the pod"
        + (f" (not judged: load {load_average:.0f} on {cores} cores)" if busy else ""),
        unless(busy or seconds < READY_SECONDS, f"not below {READY_SECONDS:.0f} s"),
        unless(site.restarts() == 0, "restarted"),
    )
    begin = time.monotonic()
    tested = site.cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}")
    left = site.cluster.kubectl("get", f"namespace/{RELEASE}-test", "--ignore-not-found")
    yield judge(
        f"`helm test {RELEASE}`",
        f"passes, {time.monotonic() - begin:.0f} s",
        unless(tested.returncode == 0, (tested.stdout + tested.stderr).strip()[-2000:]),
        unless("Active" not in left.stdout, "its namespace is left"),
    )
    seconds = await asyncio.to_thread(site.install, "upgrade", **site.for_guests())
    yield judge(
        "`helm upgrade` with keys, resources and administrators from Secrets: to Ready",
        f"{seconds:.1f} s",
        unless(site.restarts() == 0, "restarted"),
    )
    for name, got, expected in (
        ("RATS-TLS", await site.guests.ratstls(KEY), key),
        ("HTTPS", await site.guests.https(RESOURCE), resource),
    ):
        yield judge(
            f"guest of {name}, a key from a Secret",
            "has it",
            unless(got == expected, "another content"),
        )
    words = ("exec", POD, f"--namespace={NAMESPACE}", "--", "verdict-py")
    created = site.cluster.kubectl(*words, "key", "create", MADE)
    site.made = await site.guests.ratstls(MADE)
    status = site.cluster.kubectl(*words, "status")
    yield judge(
        "`kubectl exec verdictd-0 -- verdict-py`: status, and a key on the volume",
        "works without options",
        unless(created.returncode == 0 and site.made, created.stderr.strip()),
        unless(status.returncode == 0, status.stderr.strip()),
    )


async def network(site: Site) -> AsyncIterator[Row]:
    """Compare the rules of the NetworkPolicy with the pod: nothing enforces them here."""
    policy = site.cluster.get("networkpolicy", RELEASE, f"--namespace={NAMESPACE}")["spec"]
    pod = site.pod()
    selected = policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {one["name"]: one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]}
    admitted = {
        port["port"]: ports.get(port["port"])
        for rule in policy["ingress"]
        for port in rule["ports"]
    }
    out = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    yield judge(
        "NetworkPolicy (the `bridge` plug-in enforces none; its rules, read back)",
        f"in: {', '.join(f'{name} {port}' for name, port in admitted.items())}; out: {out}",
        unless(selected, "it does not select the pod"),
        unless(set(admitted) == {"rats-tls", "https"}, "other ports"),
        unless(None not in admitted.values(), "a port that the pod has not"),
        unless(out == {53}, "an air-gapped broker may reach more than name servers"),
    )


async def rotation(site: Site) -> AsyncIterator[Row]:
    """Replace certificate, administrators and keys at once, while guests attest."""
    before = site.pod()["metadata"]["uid"]
    old = site.token()
    allowed = await site.guests.administrate(old, NOTE, b"before")
    async with load(site.guests, KEY, RESOURCE, at_once=GUESTS) as served:
        await _until(lambda: _is(served.count >= GUESTS))
        site.administrator = ed25519.Ed25519PrivateKey.generate()
        begin = time.monotonic()
        serial = await asyncio.to_thread(site.certificate)
        await asyncio.to_thread(site.administrators)
        key, resource = await asyncio.to_thread(site.keys)

        async def shown(name: str, condition: Callable[[], Awaitable[bool]]) -> tuple[str, float]:
            await _until(condition)
            return name, time.monotonic() - begin

        async def certified() -> bool:
            return await site.guests.serial_number() == serial

        async def administrated() -> bool:
            return await site.guests.administrate(site.token(), NOTE, b"after") in _PERMITTED

        async def keyed() -> bool:
            got = (await site.guests.ratstls(KEY), await site.guests.https(RESOURCE))
            return got == (key, resource)

        times = await asyncio.gather(
            shown("certificate", certified),
            shown("administrators", administrated),
            shown("key and resource", keyed),
        )
        refused = await site.guests.administrate(old, NOTE, b"old")
        count = served.count
        await _until(lambda: _is(served.count >= count + GUESTS))
    for name, seconds in times:
        yield judge(
            f"rotation under load: {name}",
            f"in force after {seconds:.0f} s",
            unless(seconds < ROTATION_SECONDS, f"not below {ROTATION_SECONDS:.0f} s"),
        )
    yield judge(
        "rotation under load: an administrator that was taken out",
        f"{allowed} before, {refused} after",
        unless(allowed in _PERMITTED and refused in _REFUSED, "not refused"),
    )
    yield judge(
        f"rotation under load: {GUESTS} guests attest at any time",
        f"{served.count} served, {len(served.failures)} failed, slowest {served.slowest:.1f} s",
        unless(not served.failures, "; ".join(sorted(set(served.failures))[:3])),
        unless(site.pod()["metadata"]["uid"] == before, "the pod was replaced"),
        unless(site.restarts() == 0, "restarted"),
    )


async def _is(condition: bool) -> bool:  # the value itself
    return condition


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float = 300.0) -> None:
    """Wait for a condition, which is asked again after it failed.

    Raises:
        Failed: it takes too long.
    """
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > end:
            raise Failed(f"{condition.__qualname__} takes longer than {seconds:.0f} s")
        await asyncio.sleep(0.5)


async def eviction(site: Site) -> AsyncIterator[Row]:
    """Evict the pod against the PodDisruptionBudget, and with it."""
    values = site.for_guests()
    none: dict[str, Any] = {"podDisruptionBudget": {"maxUnavailable": 0}}
    await asyncio.to_thread(site.install, "upgrade", **values, **none)
    await _until(lambda: _is(_allowed(site) == 0))
    refused = _evict(site)
    await asyncio.to_thread(site.install, "upgrade", **values)
    await _until(lambda: _is(_allowed(site) == 1))
    async with watched(site.guests, MADE, site.made) as outage:
        evicted = await asyncio.to_thread(_evict, site)
        await asyncio.to_thread(_replaced, site)
    yield judge(
        "eviction, `podDisruptionBudget.maxUnavailable=0`",
        "refused",
        unless("disruption budget" in refused, refused or "evicted"),
    )
    yield _judge_outage("eviction within the PodDisruptionBudget", outage, evicted)


def _allowed(site: Site) -> int:
    budget = site.cluster.get("poddisruptionbudget", RELEASE, f"--namespace={NAMESPACE}")
    found: int = budget.get("status", {}).get("disruptionsAllowed", 0)
    return found


def _evict(site: Site) -> str:
    """Evict the pod as a drain of its node does; return why it was refused."""
    metadata = {"name": POD, "namespace": NAMESPACE}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/eviction"
    done = site.cluster.kubectl("create", f"--raw={path}", "--filename=-", text=json.dumps(body))
    return done.stderr.strip() if done.returncode else ""


def _replaced(site: Site) -> None:
    """Wait until the evicted pod has gone and its successor is ready."""
    site.cluster.kubectl(
        "wait", "--for=delete", f"pod/{POD}", f"--namespace={NAMESPACE}", "--timeout=60s"
    )
    site.ready()


def _judge_outage(case: str, outage: Outage, *problems: str) -> Row:
    return judge(
        case,
        f"{outage.seconds:.1f} s without service, the key is the same",
        unless(not outage.other, "another key"),
        unless(outage.seconds < ROTATION_SECONDS, "not served again"),
        *problems,
    )


async def killed(site: Site) -> AsyncIterator[Row]:
    """Kill the broker's process."""
    restarts = site.restarts()
    async with watched(site.guests, MADE, site.made) as outage:
        await asyncio.sleep(0)  # the first guest is on its way
        number = _broker()
        os.kill(number, signal.SIGKILL)
        await _until(lambda: _is(site.restarts() > restarts))
        await asyncio.to_thread(site.ready)
    yield _judge_outage(
        "`kill -9` of the broker",
        outage,
        unless(site.restarts() == restarts + 1, f"{site.restarts() - restarts} restarts"),
    )


def _broker() -> int:
    """Return the first process of the broker."""
    found = []
    for number in pods_processes():
        with suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/verdictd-py") for word in words) and b"--data-dir" in words:
                found.append(number)
    return min(found)


async def releases(site: Site) -> AsyncIterator[Row]:
    """Uninstall, install the previous chart on the same volume, upgrade and roll back."""
    previous = site.directory / "previous"
    shutil.copytree(CHART, previous)
    description = yaml.safe_load((previous / "Chart.yaml").read_text())
    (previous / "Chart.yaml").write_text(yaml.safe_dump({**description, "version": PREVIOUS}))
    async with watched(site.guests, MADE, site.made) as outage:
        await asyncio.to_thread(site.helm, "uninstall", RELEASE, "--wait")
        await asyncio.to_thread(site.install, "install", previous, **site.for_guests())
    claim = site.cluster.get("pvc", f"data-{POD}", f"--namespace={NAMESPACE}")
    yield _judge_outage(
        f"`helm uninstall`, and `helm install` of chart {PREVIOUS} on the retained volume",
        outage,
        unless(claim["status"]["phase"] == "Bound", "the claim is lost"),
    )
    for case, words in (
        (f"`helm upgrade` from chart {PREVIOUS}", ()),
        ("`helm rollback`", ("rollback", RELEASE, "1", "--wait", "--timeout=120s")),
        ("`helm upgrade` again", ()),
    ):
        async with watched(site.guests, MADE, site.made) as outage:
            if words:
                await asyncio.to_thread(site.helm, *words)
            else:
                await asyncio.to_thread(site.install, "upgrade", **site.for_guests())
        chart = site.pod()["metadata"]["labels"]["helm.sh/chart"]
        expected = PREVIOUS if words else description["version"]
        yield _judge_outage(
            f"{case} ({chart})", outage, unless(chart.endswith(expected), "another chart")
        )


CASES: Final[tuple[Case, ...]] = (installation, network, rotation, eviction, killed, releases)


async def run(programs: Programs, names: Sequence[str]) -> int:
    """Run the cases; return 1 if a row failed."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="verdictd-py-cluster-") as directory:
        site = Site(Cluster(programs, CONFIG, INSIDE), Path(directory))
        prepare(site)
        for case in CASES:
            if names and case.__name__ not in names:
                continue
            try:
                async for row in case(site):
                    rows.append(row)
                    print(f"{row.result}: {row.case}: {row.figures}", flush=True)
            except (Failed, OSError, ExceptionGroup) as error:
                rows.append(
                    Row(f"{case.__name__} ended by {type(error).__name__}", str(error), FAILED)
                )
                print(f"{FAILED}: {rows[-1].case}: {error}\n{site.state()}", flush=True)
                break
    print("\n| case | figures | result |\n| --- | --- | --- |")
    for row in rows:
        cells = (text.replace("|", "/").replace("\n", " ") for text in (row.case, row.figures))
        print(f"| {' | '.join(cells)} | {row.result} |")
    return int(not rows or any(row.result == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(asyncio.run(run(Programs(Path(sys.argv[1])), sys.argv[2:])))

"""`verdictd-py demo`: a broker and its guests on loopback, with a simulated TDX platform."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc

from verdictd_py import daemon as app
from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.cli import channels
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser
from verdictd_py.config import Settings, Unsafe
from verdictd_py.domain.events import GuestRefused
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.names import LEGACY_RESOURCES
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.guest.attesters import (
    COLLATERAL_FILE,
    SimulatedAttester,
    guest_context,
    simulated_platform,
)
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.guest.rcar.evidence import TdxEvidence
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.packaged import default_file
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import Flaw, SimulatedPlatform, TdMeasurements

KID: Final = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
"""Example key of the guide, public in `keys/`."""

_LAYER: Final = b'{"symkey":"the key of an image layer would stand here"}'
_STEP_SECONDS: Final = 10


class DemoFailed(Exception):
    """A step of the demo had an unexpected result."""


class EventRecorder:
    """Records the broker's events, so that the demo can print reasons of refusals."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def commit(self, *events: Event) -> None:
        self.events.extend(events)

    def reasons_of_last_refusal(self) -> tuple[str, ...]:
        for event in reversed(self.events):
            if isinstance(event, GuestRefused):
                return event.reasons
        return ()


def run(argv: Sequence[str]) -> int:
    """Run the demo; return 0 if every step had the expected result, else 1."""
    options = build_parser().parse_args(list(argv))
    with tempfile.TemporaryDirectory(prefix="verdictd-py-demo-") as directory:
        sample: bool = options.insecure_sample_verifier
        return asyncio.run(
            _demonstrate(Path(directory), exit_afterwards=options.exit, sample=sample)
        )


def build_parser() -> Parser:
    """Return the parser of `verdictd-py demo`."""
    parser = Parser(
        "verdictd-py demo",
        "Start a broker on free loopback ports with a temporary data directory and a simulated\n"
        "TDX platform, wrap a key, release it to a genuine guest, refuse a tampered and a debug\n"
        "guest, and leave the broker running.",
        "exit status: 0 each step had its expected result, 1 one had not",
    )
    parser.add_argument("--exit", action="store_true", help="exit after the last step")
    parser.add_argument(
        "--insecure-sample-verifier",
        action="store_true",
        help="HTTP guests need no hardware: for kbs-client on this machine",
    )
    add_timeout(parser)
    return parser


async def _demonstrate(directory: Path, *, exit_afterwards: bool, sample: bool) -> int:
    recorder = EventRecorder()
    now = app.utc_now()
    platform = simulated_platform(directory / "platform", now=now)
    data = directory / "data"
    (data / "keys").mkdir(mode=0o700, parents=True)
    (data / "keys" / KID).write_bytes(default_file(f"keys/{KID}"))
    daemon = await app.build_daemon(
        Settings(
            listen="127.0.0.1:0",
            client_api="127.0.0.1:0",
            kbs_http="127.0.0.1:0",
            verifier=("tdx",),
            data_dir=data,
            collateral=directory / "platform" / COLLATERAL_FILE,
        ),
        Unsafe(
            unsafe_tdx_root_ca=directory / "platform" / "root-ca.pem",
            insecure_sample_verifier=sample,
            insecure_sample_data_dir=sample,  # the directory is temporary
        ),
        recorder,
    ).start()
    demo = Demo(daemon, platform, recorder, now)
    try:
        await demo.run()
    except DemoFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return EXIT_REFUSED
    else:
        if not exit_afterwards:
            await _serve(daemon, directory)
        return EXIT_OK
    finally:
        await daemon.stop()


class Demo:
    """The steps of the demo; each prints its result and fails if it is unexpected."""

    def __init__(
        self,
        daemon: app.Daemon,
        platform: SimulatedPlatform,
        recorder: EventRecorder,
        now: datetime,
    ) -> None:
        self._daemon = daemon
        self._platform = platform
        self._recorder = recorder
        self._now = now
        self._packet: AnnotationPacket | None = None

    async def run(self) -> None:
        """Run every step in order.

        Raises:
            DemoFailed: a step had an unexpected result.
        """
        print(f"The broker listens for guests on {self._daemon.listener('listen').endpoint},")
        print(f"for current guests over HTTP on {self._daemon.listener('kbs_http').endpoint},")
        print(f"for image owners on {self._daemon.listener('client_api').endpoint}.\n")
        steps: tuple[tuple[str, Callable[[], Awaitable[str]]], ...] = (
            ("An image owner wraps a layer key, as skopeo does", self._wrap),
            ("A genuine guest attests and unwraps it", self._good_guest),
            ("The same guest fetches the image policy", self._policy),
            ("A current guest attests over HTTP and fetches it too", self._http_guest),
            ("A guest with a tampered quote is refused", self._tampered),
            ("A debug guest is refused although it is genuine", self._debug),
            ("A guest without evidence is refused", self._without_evidence),
        )
        for number, (title, step) in enumerate(steps, start=1):
            print(f"{number}. {title}")
            try:
                async with asyncio.timeout(_STEP_SECONDS):
                    print(f"   {await step()}\n")
            except (BrokerRefused, TimeoutError, grpc.aio.AioRpcError) as error:
                raise DemoFailed(f"step {number}: {error}") from error

    async def _wrap(self) -> str:
        parameter = base64.b64encode(KID.encode()).decode()
        request = {
            "op": "keywrap",
            "keywrapparams": {
                "ec": {"Parameters": {"attestation-agent": [parameter]}, "DecryptConfig": {}},
                "optsdata": base64.b64encode(_LAYER).decode(),
            },
            "keyunwrapparams": {"dc": None, "annotation": None},
        }
        endpoint = self._daemon.listener("client_api").endpoint
        async with channels.channel(endpoint) as channel:
            stub: Any = services.KeyProviderServiceStub(channel)
            answer = await stub.WrapKey(
                messages.keyProviderKeyWrapProtocolInput(
                    KeyProviderKeyWrapProtocolInput=json.dumps(request).encode()
                )
            )
        results = json.loads(answer.KeyProviderKeyWrapProtocolOutput)["keywrapresults"]
        self._packet = AnnotationPacket.decode(base64.b64decode(results["annotation"]))
        return f"wrapped with key {self._packet.kid}"

    async def _good_guest(self) -> str:
        packet = self._packet
        if packet is None:
            raise DemoFailed("there is no packet to unwrap")
        async with self._guest(SimulatedAttester(self._platform)) as guest:
            layer_key = await guest.decrypt(
                kid=packet.kid,
                encrypted_data=packet.blob.ciphertext,
                algorithm=packet.blob.algorithm.value,
                iv=packet.blob.iv,
            )
        if layer_key != SecretBytes(_LAYER):
            raise DemoFailed("the unwrapped layer key is not the one that was wrapped")
        return f"attested; the unwrapped layer key is the original, {len(layer_key)} bytes"

    async def _policy(self) -> str:
        async with self._guest(SimulatedAttester(self._platform)) as guest:
            policy = await guest.resource("Policy")
        return f"the policy is {policy.reveal().decode().strip()}"

    async def _http_guest(self) -> str:
        guest = RcarGuest(TdxEvidence(SimulatedAttester(self._platform)))
        link = KbsLink(self._daemon.listener("kbs_http").endpoint, timeout_seconds=_STEP_SECONDS)
        async with RcarSession.open(link, guest) as session:
            policy = await session.resource(LEGACY_RESOURCES["Policy"])
        return f"the policy, encrypted to the guest's key, is {policy.reveal().decode().strip()}"

    async def _tampered(self) -> str:
        return await self._refused(
            SimulatedAttester(self._platform, flaw=Flaw.CHANGED_AFTER_SIGNING)
        )

    async def _debug(self) -> str:
        return await self._refused(SimulatedAttester(self._platform, TdMeasurements().debug()))

    async def _without_evidence(self) -> str:
        return await self._refused(None)

    async def _refused(self, attester: SimulatedAttester | None) -> str:
        try:
            async with self._guest(attester) as guest:
                await guest.resource("Policy")
        except BrokerRefused as error:
            reasons = "\n   ".join(self._recorder.reasons_of_last_refusal())
            return f"the guest receives: {error}\n   the operator reads: {reasons}"
        raise DemoFailed("the guest was accepted")

    def _guest(
        self, attester: SimulatedAttester | None
    ) -> AbstractAsyncContextManager[GuestConnection]:
        listen = self._daemon.listener("listen").address
        context = guest_context(attester, Form.CURRENT, now=self._now)
        return GuestConnection.open(listen.host, listen.port, context)


async def _serve(daemon: app.Daemon, directory: Path) -> None:
    platform = directory / "platform"
    listen, api, kbs = (
        daemon.listener(name).endpoint for name in ("listen", "client_api", "kbs_http")
    )
    # Another terminal has not activated the virtual environment of this one.
    programs = f"  export PATH={sys.prefix}/bin:$PATH\n" if sys.prefix != sys.base_prefix else ""
    print(
        f"The broker runs until you press Ctrl-C. Try in another terminal:\n\n{programs}"
        f"  verdictd-py guest --connect {listen} --platform {platform} policy\n"
        f"  verdictd-py guest --connect {listen} --platform {platform} --base64 key {KID}\n"
        f"  verdictd-py guest --connect {listen} --attester none policy\n"
        f"  verdictd-py guest --protocol rcar --connect {kbs} "
        f"--platform {platform} policy\n"
        f"  verdict-py -c {api} explain --last\n"
        f"  verdict-py -c {api} guest list accepted\n\n"
        f"Its data directory is {directory / 'data'}. Configure skopeo with\n\n"
        f'  {{"key-providers":{{"attestation-agent":{{"grpc":"{api}"}}}}}}\n',
        flush=True,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()

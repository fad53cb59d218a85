"""The command that signs a person in to the web console."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management.client import BrokerClient
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.output.layout import Text
from verdictd_py.cli.output.result import CommandOutput

KIND: Final = "console-link"


async def _console(client: BrokerClient, options: Namespace) -> CommandOutput:
    """Print a link, which signs in once."""
    del options
    link = await client.call(client.console.CreateLink, v1.CreateLinkRequest())
    remark = (
        f"open this address within {link.valid_seconds // 60} minutes; it signs in once, with the "
        "rights of this user"
    )
    data = {"url": link.url, "valid_seconds": link.valid_seconds}
    return CommandOutput(KIND, data, Text(link.url), remarks=(remark,), names=(link.url,))


COMMANDS: Final = (
    Command("console", "a link that signs in to the web console once", _console, writes=(KIND,)),
)

"""The command that signs a person in to the web console."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import show
from verdictd_py.cli.management.client import BrokerClient
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.management.show import CommandOutput


async def _console(client: BrokerClient, options: Namespace) -> CommandOutput:
    """Print a link, which signs in once."""
    del options
    link = await client.call(client.console.CreateLink, v1.CreateLinkRequest())
    minutes = link.valid_seconds // 60
    data = {"url": link.url, "valid_seconds": link.valid_seconds}
    remark = f"open this address within {minutes} minutes; it signs in once, as this user"
    return CommandOutput(data, show.cell(link.url), remarks=(remark,))


COMMANDS: Final = (
    Command("console", "a link that signs in to the web console once", _console),
)

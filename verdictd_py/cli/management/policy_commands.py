"""Commands that check and test a policy on a broker before it is in force."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli import policyreport
from verdictd_py.cli.management.client import MAX_FILE_BYTES, BrokerClient, BrokerFailed, read
from verdictd_py.cli.management.command import FILE, Arguments, Command
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.cli.parsing import read_input
from verdictd_py.errors import ConfigError


async def _check(client: BrokerClient, options: Namespace) -> CommandOutput:
    name = options.policy or options.file.name
    request = v1.CheckPolicyRequest(name=name, content=read(options.file))
    answer = await client.call(client.policy_tests.CheckPolicy, request)
    return policyreport.usable(str(options.file), answer.syntax, list(answer.rules))


async def _test(client: BrokerClient, options: Namespace) -> CommandOutput:
    """Test a policy; status 1 if the broker would refuse the guest."""
    if (options.input is None) == (options.id is None):
        raise ConfigError("give either a file of claims, or --id with the id of an appraisal")
    request = v1.TestPolicyRequest(
        policy=options.policy or "",
        reference=options.reference or "",
        id=options.id or "",
        tee=options.tee or "",
    )
    if options.input is not None:
        request.claims = read_input(options.input, MAX_FILE_BYTES)
    if options.policy_file is not None:
        request.policy_content = read(options.policy_file)
    if options.reference_file is not None:
        request.reference_content = read(options.reference_file)
    answer = await client.call(client.policy_tests.TestPolicy, request)
    try:
        return policyreport.decision(json.loads(answer.report))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokerFailed(
            "the broker's answer is not a report: is -c right?", answered=False
        ) from (error)


_CHECK: Final[Arguments] = {
    **FILE,
    "--policy": {"metavar": "NAME", "help": "name under which it would be stored (FILE's name)"},
}
_TEST: Final[Arguments] = {
    "input": {
        "metavar": "CLAIMS_FILE",
        "type": Path,
        "nargs": "?",
        "help": "claims, or the output of explain --json; - for standard input",
    },
    "--id": {"metavar": "ID", "help": "the claims of this guest, see guest list"},
    "--policy": {"metavar": "NAME", "help": "a stored policy (the one of the claims' TEE)"},
    "--policy-file": {"metavar": "FILE", "type": Path, "help": "this policy instead"},
    "--reference": {"metavar": "NAME", "help": "stored data (the data of the policy)"},
    "--reference-file": {"metavar": "FILE", "type": Path, "help": "this data instead"},
    "--tee": {"metavar": "TEE", "help": "TEE of the claims, if they do not name it"},
}

COMMANDS: Final = (
    Command(
        "policy check",
        "whether a policy could be set; nothing is stored",
        _check,
        _CHECK,
        ("policy-check",),
    ),
    Command(
        "policy test",
        "what a policy would decide, and why; status 1: refused",
        _test,
        _TEST,
        ("policy-test",),
    ),
)

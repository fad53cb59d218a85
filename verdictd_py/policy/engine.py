"""Adapter over regopy (rego-cpp): one policy compiled once, asked many times, fail-closed.

The engine runs in this process and has no limit on time or memory. Whoever wants one
runs `CompiledPolicy` in a child process: it takes text and gives plain values.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Final, Self

from regopy import Bundle, Interpreter, LogLevel, Output, RegoError, rego_shared

from verdictd_py.documents.reference import canonical, parse_data
from verdictd_py.encoding import JsonValue, has_more_values
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy import builtins
from verdictd_py.ports import PolicyDocuments

MAX_POLICY_BYTES: Final = 256 * 1024
"""The defaults are below 4 KiB; the compiler's time grows with the text."""

MAX_INPUT_BYTES: Final = 1024 * 1024
"""Claims of one guest are below 4 KiB, but for its init-data and its boot's event log."""

MAX_INPUT_VALUES: Final = 8 * 1024
"""Members and elements of the input: the time for them grows with the square of their number,
and everybody else waits. An event log of `eventlog.MAX_EVENTS` has some 5,000."""

MAX_DECIDED: Final = 256
"""Decisions kept for one policy: a guest that comes again is not asked about anew."""

MAX_DECIDED_CHARS: Final = 16 * 1024
"""Of claims that are kept; they have some 3,000, and a boot's event log far more."""

MAX_COMPILED: Final = 16
"""Policies kept ready: those in use, and those that a change has just replaced."""

_QUERY: Final = "data.policy"

_ENGINE_FAILURES: Final = (
    RegoError,
    ctypes.ArgumentError,
    AssertionError,
    ValueError,
    TypeError,
    RecursionError,
)
"""What regopy raises. A failure of the query itself arrives as a ValueError of `json`,
because the wrapper reads an answer that is not there."""

_ENGINE: Final = Lock()
"""One caller at a time: input is state of an interpreter, standard output of the process."""

_STDOUT: Final = 1
_LIBC: Final = ctypes.CDLL(None)

_CANARY: Final = "package policy\nimport rego.v1\nallow if opa.runtime().env\n"


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What a policy said.

    Attributes:
        allow: True only if the policy's `allow` is the JSON value `true`.
        document: everything that `package policy` defines for these claims.
    """

    allow: bool
    document: Mapping[str, JsonValue]


class CompiledPolicy:
    """A policy with its reference data, ready to judge claims. Made by `compile`."""

    def __init__(self, interpreter: Interpreter, bundle: Bundle) -> None:
        self._interpreter = interpreter
        self._bundle = bundle
        self._decided: OrderedDict[str, PolicyResult] = OrderedDict()

    @classmethod
    def compile(cls, policy: str, data: str) -> Self:
        """Compiles `policy` over the reference data in the JSON text `data`.

        1. Sizes. 2. The data (`parse_data`). 3. The engine can be inspected at all.
        4. Compile. 5. Only allowed functions are called, and `allow` is defined.

        Raises:
            PolicyInvalid: one of these failed.
        """
        if len(policy.encode("utf-8", "replace")) > MAX_POLICY_BYTES:  # 1
            raise PolicyInvalid(f"the policy is larger than {MAX_POLICY_BYTES} bytes")
        if "\0" in policy:
            raise PolicyInvalid("the policy holds a NUL, and the engine would stop reading there")
        reference = parse_data(data)  # 2
        _check_engine()  # 3
        interpreter, bundle = _build(policy, canonical(reference))  # 4
        builtins.check(builtins.names_in(bundle))  # 5
        return cls(interpreter, bundle)

    def evaluate(self, claims: Mapping[str, JsonValue]) -> PolicyResult:
        """Asks the policy about `claims`; the same answer again for the same claims.

        Raises:
            PolicyInvalid: the claims are no JSON, a function was given a wrong type, a rule
                contradicts itself, or the engine failed. An undefined `allow` is no error,
                it is a refusal.
        """
        try:
            term = canonical(dict(claims))
        except ValueError as error:
            raise PolicyInvalid(f"the claims are no JSON: {error}") from error
        if len(term.encode()) > MAX_INPUT_BYTES:
            raise PolicyInvalid(f"the claims are larger than {MAX_INPUT_BYTES} bytes")
        if has_more_values(dict(claims), MAX_INPUT_VALUES):
            raise PolicyInvalid(f"the claims are more than {MAX_INPUT_VALUES} values")
        result = self._decided.pop(term, None)
        if result is None:
            result = self._ask(term)
        if len(term) <= MAX_DECIDED_CHARS:
            self._decided[term] = result
        while len(self._decided) > MAX_DECIDED:
            self._decided.popitem(last=False)
        return result

    def _ask(self, term: str) -> PolicyResult:
        with _stdout_contained():
            try:
                self._interpreter.set_input_term(term)
                output = self._interpreter.query_bundle(self._bundle)
                return _result(output)
            except _ENGINE_FAILURES as error:
                raise PolicyInvalid(_failure(error)) from error


class CompiledPolicies:
    """Policies kept ready by the digest of their documents, the last `MAX_COMPILED` used."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[bytes, CompiledPolicy | PolicyInvalid] = OrderedDict()

    def of(self, documents: PolicyDocuments) -> CompiledPolicy:
        """What was compiled of these documents before, or now.

        A failure is kept as well: the same broken policy fails without being compiled again.

        Raises:
            PolicyInvalid: see `CompiledPolicy.compile`.
        """
        digest = _digest(documents)
        compiled = self._compiled.pop(digest, None)
        if compiled is None:
            try:
                compiled = CompiledPolicy.compile(documents.policy, documents.data)
            except PolicyInvalid as error:
                compiled = error.with_traceback(None)
        self._compiled[digest] = compiled
        while len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        if isinstance(compiled, PolicyInvalid):
            raise PolicyInvalid(str(compiled))
        return compiled


def _digest(documents: PolicyDocuments) -> bytes:
    """SHA-256 over both texts, each hashed first so that neither runs into the other."""
    parts = (documents.policy, documents.data)
    hashed = (hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest() for part in parts)
    return hashlib.sha256(b"".join(hashed)).digest()


def _build(policy: str, data: str) -> tuple[Interpreter, Bundle]:
    with _stdout_contained():
        try:
            interpreter = Interpreter()
            interpreter.log_level = LogLevel.NONE
            # A wrong type makes the whole decision fail. Otherwise it is merely undefined,
            # and `not` turns undefined into a yes.
            interpreter.strict_built_in_errors = True
            interpreter.add_data_json(data)
            interpreter.add_module(_QUERY, policy)
            bundle = interpreter.build(_QUERY, [])
            if not bundle.ok():
                raise PolicyInvalid("the engine cannot compile the policy")
        except _ENGINE_FAILURES as error:
            raise PolicyInvalid(_syntax(error, policy)) from error
    return interpreter, bundle


@cache
def _check_engine() -> None:
    """Shows, once, that a forbidden call is found in a plan of the regopy installed here.

    Raises:
        PolicyInvalid: it is not: an engine that cannot be inspected runs nothing.
    """
    names = builtins.names_in(_build(_CANARY, "{}")[1])
    if "opa.runtime" not in names.called or builtins.VERDICT not in names.defined:
        raise PolicyInvalid("the calls of a policy are not seen with this regopy; install 1.5")


def _result(output: Output) -> PolicyResult:
    if not output.ok():
        raise PolicyInvalid(_runtime_error(output))
    if len(output) != 1 or len(output[0].expressions) > 1:
        raise PolicyInvalid("the policy has more than one answer")
    expressions = output[0].expressions
    document = expressions[0] if expressions else {}
    if not isinstance(document, dict):
        raise PolicyInvalid("the policy's answer is not an object")
    return PolicyResult(document.get("allow") is True, document)


def _runtime_error(output: Output) -> str:
    """The first message in an ErrorSeq: error -> (message, syntax, code)."""
    errors = output.node()
    if len(errors) and len(errors.at(0)):
        message = rego_shared.rego_node_value(
            errors.at(0).at(0)._impl  # noqa: SLF001  # `value` serves scalars only
        )
        return f"the policy failed: {message}"
    return "the policy failed"


def _failure(error: BaseException) -> str:
    if isinstance(error, RegoError):
        return f"the policy failed: {error}"
    return (
        "the policy failed: the engine gives no answer "
        "(a rule that needs itself, or too much memory, does this)"
    )


# (error 1:<module>|<offset>|<length> (errormsg <length>:<text>)
_SYNTAX_ERROR: Final = re.compile(r"\(error [^|()]*\|(\d+)\|\d+\s*\(errormsg \d+:([^\n]*)\)")


def _syntax(error: BaseException, policy: str) -> str:
    """`line 3: this is unclosed`, or the whole text where it has another form."""
    found = _SYNTAX_ERROR.search(str(error))
    if found is None:
        return f"the engine cannot compile the policy: {error}"
    line = policy.encode()[: int(found[1])].count(b"\n") + 1
    return f"the engine cannot compile the policy: line {line}: {found[2]}"


@contextmanager
def _stdout_contained() -> Iterator[None]:
    """Lets nothing that the engine prints reach standard output.

    Descriptor 1 points to the null device meanwhile: what another thread writes there in
    the same instant is lost too. Logs go to standard error.
    """
    with _ENGINE:
        try:
            saved = os.dup(_STDOUT)
        except OSError:  # it is closed: there is nothing to protect
            yield
            return
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, _STDOUT)
            os.close(null)
            yield
        finally:
            _LIBC.fflush(None)  # what C still holds would come out later
            os.dup2(saved, _STDOUT)
            os.close(saved)

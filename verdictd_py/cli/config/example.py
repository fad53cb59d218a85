"""The commented configuration file of `verdictd-py config init`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from verdictd_py import __version__
from verdictd_py.cli.config.explained import HEADINGS, Explained, settings

_WIDTH: Final = 98

_HEAD: Final = f"""\
# Settings of verdictd-py {__version__}.
#
# Nothing is set: each line "#name = value" is an example. Remove the "#" to set the value. The
# environment (VERDICTD_NAME) overrides this file, and the command line (--name) overrides both.
#
#   verdictd-py config validate FILE    every mistake in this file, with its line
#   verdictd-py config show             the values in force, and where each comes from
#   verdictd-py doctor                  whether this host can run the broker
#
# A secret is always named by its file: a path, also below a mounted Secret of Kubernetes, or
# "credential:NAME" for a credential of systemd (LoadCredential=NAME:FILE in the unit).
# Unsafe options are accepted on the command line only.
"""

_TEES: Final = """
# ---- Sections of TEEs of other packages ----
#
# A TEE that another package provides reads its own section, by the name of the TEE:
#[tee.acme]
#url = "https://acme.example"
"""


def example() -> str:
    """Return the file: every setting with a sentence, its unit, its default and an example."""
    return _HEAD + "".join(_parts()) + _TEES


def _parts() -> Iterator[str]:
    for setting in settings():
        if heading := HEADINGS.get(setting.name):
            yield f"\n# ---- {heading} ----\n"
        yield f"\n{_comment(setting)}\n#{setting.name} = {setting.example}\n"


def _comment(setting: Explained) -> str:
    default = setting.default or "none"
    text = [setting.sentence, f"Value: {setting.unit}. Default: {default}."]
    lines = (
        line
        for sentence in text
        for line in textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False, break_long_words=False)
    )
    return "\n".join(f"# {line}" for line in lines)

"""A policy that records its comparisons gives the same values as one that does not.

`DIFFERENTIAL_SEED` and `DIFFERENTIAL_COUNT` choose other policies; a failure names the seed.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

from tests.policy.generated import Generator
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy

DATA: Final = '{"n": 7, "l": ["a", "b", 1]}'
SEED: Final = int(os.environ.get("DIFFERENTIAL_SEED", "1"))
COUNT: Final = int(os.environ.get("DIFFERENTIAL_COUNT", "300"))


def test_recording_comparisons_changes_no_value() -> None:
    generator = Generator(SEED)
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        text = generator.policy()
        try:
            compiled = CompiledPolicy.compile(text, DATA)
        except PolicyInvalid:
            continue
        for term in generator.inputs(3):
            try:
                plain = compiled.evaluate(term)
            except PolicyInvalid:
                continue
            traced = compiled.trace(term)
            assert traced.document == plain.document, f"seed {SEED}, input {term}:\n{text}"
            counts["compared" if traced.made else "nothing compared"] += 1
    assert counts["compared"] > COUNT / 10, counts

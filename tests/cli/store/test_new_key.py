"""`verdictd-py store new-key`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.sealing import CONTEXT, DATA_KEY
from verdictd_py.cli.main import main
from verdictd_py.sealing.keyfile import KeyFile


async def test_a_new_version_still_unwraps_with_the_older_ones(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    assert main(["store", "new-key", str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o400
    kek = KeyFile(file)
    wrapped = await kek.wrap(DATA_KEY, CONTEXT)
    version = kek.current
    for _ in range(2):
        assert main(["store", "new-key", str(file)]) == 0
    await kek.check()
    assert kek.current != version
    assert await kek.unwrap(version, wrapped, CONTEXT) == DATA_KEY
    assert len(list(tmp_path.iterdir())) == 3


def test_a_directory_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["store", "new-key", str(tmp_path / "missing" / "kek")])
    assert ended.value.code == 2
    assert str(tmp_path / "missing" / "kek") in capsys.readouterr().err

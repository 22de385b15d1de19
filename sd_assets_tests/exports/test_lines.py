"""Lines that are kept in a temporary file until they are written."""

import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from sd_assets.errors import WriteError
from sd_assets.exports.lines import Lines


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_all_lines_come_in_order(count: int) -> None:
    wanted = [f"line {number}, with an é" for number in range(count)]
    with closing(Lines()) as lines:
        for line in wanted:
            lines.add(line)
        pieces = lines.pieces()
    assert len(pieces) == -(-sum(map(len, pieces)) // 2**20)
    # They are there as long as somebody holds them.
    assert b"".join(pieces).decode() == "".join(f"{line}\n" for line in wanted)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "wb", 0))
    lines = Lines()
    with pytest.raises(WriteError, match=r"where the lines of an export are kept.*No space left.*TMPDIR"):
        lines.add("a line")

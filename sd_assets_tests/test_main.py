"""The command line: listing and verifying what is under `SD_ASSETS_DATA`. What `build` does: automation/test_launch.py."""

import json
from pathlib import Path

import pytest

from sd_assets.__main__ import main
from sd_assets.compute.run import run_stage
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.toy import ToyStage, toy_input


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions of `toy p`, one of `toy q` and work in progress of that."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    store = TableStore(LocalFiles(tmp_path))
    for partition, last in (("p", 20), ("p", 50), ("q", 30)):
        run_stage(
            ToyStage(), toy_input(range(last)), store.area("toy", partition), f"run-{last}", print
        ).commit()
    with pytest.raises(KeyboardInterrupt):
        run_stage(ToyStage(stop_after=40), toy_input(range(30, 90)), store.area("toy", "q"), "stopped", print)
    return tmp_path


def test_tables_for_a_person(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables"]) == 0
    lines = capsys.readouterr().out.splitlines()
    newest, older = reversed(TableStore(LocalFiles(data)).area("toy", "p").kept())
    assert lines[0].startswith("toy p: ") and lines[0].endswith(f" MB on disk, {data}/toy/p")
    assert lines[1].split()[:2] == ["2", "current"] and lines[2].split()[0] == "1"
    assert f"{newest.created_at[:19]}  {newest.data_version}  50 rows, 5 failed, " in lines[1]
    assert f"{older.created_at[:19]}  {older.data_version}  20 rows, 2 failed, " in lines[2]
    assert lines[3].startswith("toy q: ")
    assert lines[5].strip().startswith("work in progress: 40 rows, ")
    assert len(lines) == 6


def test_tables_for_a_program(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "toy", "--partition", "q", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["asset"], found["partition"], found["uri"]) == ("toy", "q", f"{data}/toy/q")
    assert (found["wip_rows"], len(found["versions"])) == (40, 1)
    version = found["versions"][0]
    assert (version["number"], version["rows"], version["rows_failed"]) == (1, 30, 3)
    assert 0 < version["bytes"] < found["bytes"]


@pytest.mark.parametrize("command", ["tables", "verify"])
def test_what_is_not_there_is_an_error(data: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "tay"]) == 1
    assert capsys.readouterr().err == f"error: {data} has no table 'tay'; there are: toy\n"
    assert main([command, "--partition", "r"]) == 1
    assert capsys.readouterr().err == f"error: {data} has no partition 'r'; there are: p, q\n"


def test_verify_says_that_all_is_well(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "_sd_assets" / "tmp" / "half").write_bytes(b"1234567")
    assert main(["verify"]) == 0
    p, q, note, last = capsys.readouterr().out.splitlines()
    assert p.startswith("toy p: versions 1, 2; ") and p.endswith(" MB read; no faults")
    assert q.startswith("toy q: versions 1; ") and ", 70 rows, " in q
    assert note.startswith("note: _sd_assets/tmp: 1 temporary files (7 bytes)")
    assert last == f"all is well under {data}"


def test_verify_says_what_is_wrong_and_fails(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = TableStore(LocalFiles(data)).open("toy", "p").manifest.shards[-1]
    path = data / "_sd_assets" / "toy" / "p" / "shards" / shard.file
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", "toy", "--partition", "q"]) == 0
    capsys.readouterr()
    assert main(["verify", "toy"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("; 1 faults")
    assert lines[1].startswith(
        f"  wrong: _sd_assets/toy/p/shards/{shard.file}: has {shard.bytes - 1} bytes, and "
    )
    assert "to go back to it delete _sd_assets/toy/p/versions/000002.json" in lines[1]
    assert lines[-1] == f"1 faults under {data}"


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["my_photos"])
    assert "invalid choice: 'my_photos' (choose from" in capsys.readouterr().err

"""What is particular to layouts of many pairs a file."""

import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from sd_assets.curation import reading
from sd_assets.exports.pair import Pair
from sd_assets.exports.shards import Sample, _alone
from sd_assets_tests.exports.kept import exported, folder_of, some


def test_a_tar_is_what_tarfile_writes(tmp_path: Path) -> None:
    exported(tmp_path, "webdataset", some(8))
    (shard,) = (folder_of(tmp_path, "webdataset") / "train").glob("*.tar")
    again = tmp_path / "again.tar"
    with tarfile.open(shard) as tar, tarfile.open(again, "w", format=tarfile.USTAR_FORMAT) as copy:
        for member in tar:
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            copy.addfile(info, tar.extractfile(member))
    assert again.read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("layout", ["webdataset", "mds", "parquet"])
def test_where_nothing_is_yet_the_pairs_are_gone_over_once(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    read = reading.curated_rows

    def counted(*arguments: object, **options: object) -> object:
        nonlocal passes
        passes += 1
        return read(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("sd_assets.exports.pair.curated_rows", counted)
    exported(tmp_path, layout, some(8), shard_pairs=4)
    assert passes == 1
    # What is there is known by its name alone, which says what it holds.
    next(
        (folder_of(tmp_path, layout) / "train").glob(f"*.{'tar' if layout == 'webdataset' else layout}")
    ).unlink()
    exported(tmp_path, layout, shard_pairs=4)
    assert passes == 3


def test_what_is_held_keeps_no_others_memory() -> None:
    """Of images that were read together few are held: their bytes are their own. Of most a copy would gain nothing."""
    pair = Pair("id", "train", ("a caption",), {}, {}, "stem", 10)
    read = pa.py_buffer(bytes(100))
    samples = [Sample(pair, read.slice(start, 10), "jpg") for start in range(0, 100, 10)]
    few, most = samples[:4], samples[:5]
    held = _alone(few, 100)
    assert all(isinstance(sample.image, bytes) for sample in held)
    assert [bytes(sample.image) for sample in held] == [bytes(sample.image) for sample in few]
    assert _alone(most, 100) is most

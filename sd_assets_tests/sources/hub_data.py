"""Datasets as they are published, in the forms that the Hub's users give them."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets_tests.sources.conftest import picture

SHARD = "data/train-00000-of-00001.parquet"
IMAGE, TEXT = datasets.Image(), datasets.Value("string")


def cells(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Images as `datasets` keeps them in a column."""
    return [{"bytes": picture(number), "path": f"{number}.jpg"} for number in range(first, first + count)]


def parquet(columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any] | None = None) -> bytes:
    """A shard as `push_to_hub` writes it. `image` holds images and every other column texts, unless `features` says else."""
    kinds = {name: IMAGE if name == "image" else TEXT for name in columns} | dict(features or {})
    data = datasets.Dataset.from_dict(
        {name: list(it) for name, it in columns.items()}, datasets.Features(kinds)
    )
    file = io.BytesIO()
    data.to_parquet(file)
    return file.getvalue()


def pictures(count: int, first: int = 0) -> bytes:
    """A shard of pictures with texts."""
    return parquet(
        {"image": cells(count, first), "text": [f"text {number}" for number in range(first, first + count)]}
    )


def bare_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Parquet by somebody who knows nothing of `datasets`."""
    file = io.BytesIO()
    pq.write_table(pa.table({name: list(it) for name, it in columns.items()}), file)
    return file.getvalue()


def tar(members: Mapping[str, bytes], folders: Sequence[str] = ()) -> bytes:
    """A tar of files, after folders that hold none of them."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()

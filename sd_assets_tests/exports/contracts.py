"""What consumers ask of a folder: those that can be installed are asked themselves, of the others their documented rules are checked.

- datasets: `load_dataset("imagefolder")`, as diffusers' train_text_to_image.py calls it, and Parquet.
- webdataset: `WebDataset` over the tars.
- mosaicml-streaming (0.13 wants numpy below 2.2 and transformers below 5): the shard format, as its documentation and its reader have it.
- kohya's sd-scripts: docs/config_README-en.md, and `read_caption` of library/train_util.py.
- ai-toolkit: toolkit/data_loader.py and the caption mixin.
"""

import io
import json
import os
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sd_assets_tests.exports.kept import folder_of

IMAGES_OF_KOHYA = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
IMAGES_OF_AI_TOOLKIT = {".png", ".jpg", ".jpeg", ".webp"}


def imagefolder(folder: Path) -> Any:
    """`load_dataset` on a split, in the words of diffusers: everything below `--train_data_dir` is `train`."""
    import datasets

    return datasets.load_dataset(
        "imagefolder", data_files={"train": str(folder / "**")}, cache_dir=str(folder.parents[3] / "cache")
    )["train"]


def parquet(folder: Path) -> Any:
    """`load_dataset` on a folder of Parquet."""
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(folder.parents[2] / "cache"))


def webdataset(folder: Path) -> list[dict[str, Any]]:
    """The samples of a split, not decoded."""
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    return list(wds.WebDataset(shards, shardshuffle=False))


def mds(folder: Path) -> list[dict[str, Any]]:
    """The samples of a split, read as MDSReader reads them."""
    index = json.loads((folder / "index.json").read_bytes())
    assert index["version"] == 2
    return [sample for shard in index["shards"] for sample in _mds_shard(folder, shard)]


def _mds_shard(folder: Path, shard: dict[str, Any]) -> list[dict[str, Any]]:
    data = (folder / shard["raw_data"]["basename"]).read_bytes()
    assert len(data) == shard["raw_data"]["bytes"] and (shard["version"], shard["format"]) == (2, "mds")
    names, encodings, widths = (shard[f"column_{what}"] for what in ("names", "encodings", "sizes"))
    assert names == sorted(names) and shard["compression"] is shard["zip_data"] is None
    (count,) = struct.unpack_from("<I", data)
    assert count == shard["samples"]
    begins = struct.unpack_from(f"<{count + 1}I", data, 4)
    described = json.loads(data[4 * (count + 2) : begins[0]])
    assert all(
        described[name] == shard[name] for name in ("column_names", "column_encodings", "column_sizes")
    )
    assert begins[-1] == len(data)
    decode: dict[str, Callable[[bytes], Any]] = {
        "bytes": bytes,
        "str": lambda it: it.decode(),
        "json": json.loads,
        "int32": lambda it: struct.unpack("<i", it)[0],
    }
    samples = []
    for begin in begins[:-1]:
        at = begin
        lengths = []
        for width in widths:
            lengths.append(width or struct.unpack_from("<I", data, at)[0])
            at += 0 if width else 4
        sample = {}
        for name, encoding, length in zip(names, encodings, lengths, strict=True):
            sample[name] = decode[encoding](data[at : at + length])
            at += length
        samples.append(sample)
    assert at == len(data)
    return samples


def kohya(toml: Path) -> dict[Path, list[str]]:
    """Images, and the captions of which one is drawn, as sd-scripts reads them."""
    config = tomllib.loads(toml.read_text("utf-8"))
    found = {}
    for dataset in config["datasets"]:
        assert isinstance(dataset["resolution"], int) and dataset["batch_size"] >= 1
        for subset in dataset["subsets"]:
            folder = Path(subset["image_dir"])
            assert folder.is_absolute() and subset["num_repeats"] >= 1
            images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES_OF_KOHYA]
            assert images
            for path in images:
                lines = (
                    path.with_suffix(config["general"]["caption_extension"]).read_text("utf-8").splitlines()
                )
                assert lines, f"caption file is empty: {path}"
                wildcard = subset["enable_wildcard"]
                found[path] = (
                    [line.strip() for line in lines if line.strip()] if wildcard else [lines[0].strip()]
                )
                assert all(found[path])
    return found


def ai_toolkit(folder: Path) -> dict[Path, str]:
    """Images and captions of a `folder_path`, as ai-toolkit finds them."""
    found = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in IMAGES_OF_AI_TOOLKIT:
                text = path.with_suffix(".txt")
                assert text.exists(), f"would silently have an empty caption: {path}"
                found[path] = text.read_text("utf-8")
                assert found[path].strip()
    return found


def images_in(base: Path, layout: str, split: str = "train") -> set[bytes]:
    """The bytes of all images of a split, as the consumer of the layout is given them."""
    folder = folder_of(base, layout)
    if layout == "webdataset":
        return {
            sample.get("jpg") or sample.get("png") or sample["webp"] for sample in webdataset(folder / split)
        }
    if layout == "mds":
        return {sample["jpg"] for sample in mds(folder / split)}
    if layout == "parquet":
        import datasets

        rows = parquet(folder)[split].cast_column("image", datasets.Image(decode=False))
        return {image["bytes"] for image in rows["image"]}
    if layout == "imagefolder":
        import datasets

        rows = imagefolder(folder / split).cast_column("image", datasets.Image(decode=False))
        return {Path(image["path"]).read_bytes() for image in rows["image"]}
    paths = kohya(folder / "dataset.toml") if layout == "kohya" else ai_toolkit(folder / split)
    return {path.read_bytes() for path in paths}


def opened(data: bytes) -> Image.Image:
    """As trainers open an image."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")

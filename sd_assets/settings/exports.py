"""In which trainers' layouts the curated pairs are written, and how."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sd_assets.settings.base import Pixels, Settings
from sd_assets.settings.download import ResizeMode

Captions = Literal["first", "all"]


class LayoutSettings(Settings):
    """What all layouts have.

    Attributes:
        image_size: pixels of the side that `resize_mode` speaks of; None: no image is resized.
        resize_mode: with the meaning that `download:` gives it.
        resize_only_if_bigger: leave images alone that are smaller than image_size.
        image_format: of images that are resized. All others keep their bytes, unless trainers could not read them.
        quality: of the encoder, 1 to 100.
    """

    image_size: Pixels | None = None
    resize_mode: ResizeMode = "keep_ratio"
    resize_only_if_bigger: bool = True
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)

    @property
    def all_captions(self) -> bool:
        """Whether every caption of an image is written, or its first."""
        return getattr(self, "captions", "first") == "all"


class ImageFolderSettings(LayoutSettings):
    """`imagefolder` of `datasets`, as diffusers' training scripts read it.

    Attributes:
        captions: `first`: `text` is a caption; `all`: a list, of which diffusers draws one each time.
    """

    captions: Captions = "first"


class KohyaSettings(LayoutSettings):
    """kohya's sd-scripts.

    Attributes:
        captions: `first`: a line; `all`: a line each, of which one is drawn each time (`enable_wildcard`).
        resolution: of training, pixels: goes into the TOML.
        batch_size: likewise.
        num_repeats: likewise.
    """

    captions: Captions = "first"
    resolution: Pixels = 512
    batch_size: int = Field(1, ge=1)
    num_repeats: int = Field(1, ge=1)


class AiToolkitSettings(LayoutSettings):
    """ai-toolkit, which reads one caption an image."""


class ShardSettings(LayoutSettings):
    """Layouts that put many pairs into a file.

    Attributes:
        captions: `first`: one caption; `all`: the list of all beside it.
        shard_pairs: mean number of pairs in a file.
        shard_mb: mean size of a file, 10^6 bytes: whichever is reached first.
    """

    captions: Captions = "first"
    shard_pairs: int = Field(1000, ge=1)
    shard_mb: float = Field(64, gt=0, le=1000)


class WebDatasetSettings(ShardSettings):
    """WebDataset.

    Attributes:
        image_extension: under which all images stand, whatever their bytes are: `load_dataset("webdataset")` takes the
            columns of the first sample to be those of all. None: each under that of its format.
        pwatermark: what the `json` of a pair says of its watermark where no score of one's own of this name does. Some
            trainers drop pairs without one; None: nothing is said.
    """

    image_extension: Literal["jpg", "png", "webp"] | None = None
    pwatermark: float | None = Field(None, gt=0, le=1)


class MdsSettings(ShardSettings):
    """MDS, of mosaicml-streaming."""


class ParquetSettings(ShardSettings):
    """Parquet, as `datasets` reads it."""


def _chosen(value: Any) -> Any:
    # `kohya:` alone and `kohya: true` choose a layout as it is; `kohya: false` takes back what the defaults chose.
    return {} if value is None or value is True else None if value is False else value


_OPTIONAL = BeforeValidator(_chosen)


class ExportsSettings(Settings):
    """The layouts that are chosen: those that are not None.

    Attributes:
        path: a folder or `s3://bucket/prefix`, in which each partition of a layout has the folder `<layout>/<partition>/`;
            None: `exports` where the tables are.
    """

    # Where files lie changes nothing in them; what must be written there, the export's own record knows.
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | None = Field(None, min_length=1)
    imagefolder: Annotated[ImageFolderSettings | None, _OPTIONAL] = None
    kohya: Annotated[KohyaSettings | None, _OPTIONAL] = None
    ai_toolkit: Annotated[AiToolkitSettings | None, _OPTIONAL] = None
    webdataset: Annotated[WebDatasetSettings | None, _OPTIONAL] = None
    mds: Annotated[MdsSettings | None, _OPTIONAL] = None
    parquet: Annotated[ParquetSettings | None, _OPTIONAL] = None

    def layout(self, name: str) -> LayoutSettings | None:
        """The settings of a layout by its name; None: it is not chosen."""
        found = getattr(self, name)
        assert found is None or isinstance(found, LayoutSettings)
        return found


LAYOUTS = tuple(name for name in ExportsSettings.model_fields if name != "path")

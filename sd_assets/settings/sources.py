"""Where the seeds of an entry come from: images of a folder, the Hub, Parquet, tars or a list of URLs; and prompts."""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from sd_assets.settings.base import Settings


class FolderSource(Settings):
    """A folder of images, read by `datasets` as an imagefolder, with or without `metadata.jsonl`.

    Attributes:
        path: the folder; sub-folders are read too.
        text_column: the column of `metadata.jsonl` that holds the image's text; `text` if there is one, or the only
            column of texts; "" for none.
        max_rows: stop after so many rows.
    """

    kind: Literal["folder"]
    path: str
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class HubSource(Settings):
    """A dataset of the Hugging Face hub, read by `datasets` in streaming mode.

    Attributes:
        id: `owner/name`.
        config: the dataset's configuration, if it has several.
        split: the split to read.
        revision: a branch, tag or commit of the dataset's repository.
        image_column: the column that holds the image; found when there is only one.
        text_column: the column that holds the image's text; `text` if there is one, or the only column of texts; "" for
            none. Of a list of texts the first is taken.
        max_rows: stop after so many rows.
    """

    kind: Literal["hub"]
    id: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class ParquetSource(Settings):
    """Parquet files that hold images, or name image files.

    Attributes:
        path: a file, a folder (its sub-folders too) or a pattern such as `data/train-*.parquet`.
        image_column: the column that holds the image: bytes, `{bytes, path}` as `datasets` writes it, or the path of
            a file, relative to the Parquet file; found when only one column holds images.
        text_column: the column that holds the image's text; `text` if there is one, or the only column of texts; "" for
            none.
        max_rows: stop after so many rows.
    """

    kind: Literal["parquet"]
    path: str
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class WebDatasetSource(Settings):
    """Tar files in which neighbours of one name are a sample: `0001.jpg`, `0001.txt`, `0001.json`.

    Attributes:
        path: a file, a folder (its sub-folders too), a pattern such as `shards/*.tar`, or a range such as
            `"shards/{000..012}.tar"` (quoted: braces mean something in YAML).
        image_column: the extension of the member that is the image (`jpg`, `input.png`), where samples have several.
        text_column: the key of the sample's .json that holds the text, or `txt`; else its .txt is taken, or the key
            `caption` or `text`.
        max_rows: stop after so many rows.
    """

    kind: Literal["webdataset"]
    path: str
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class UrlsSource(Settings):
    """A list of URLs whose images are downloaded, and kept as they came.

    Of the entry's `download:` holds what says how to fetch (timeout_s, retries, max_bytes, max_redirects, connections,
    user_agent, allow_addresses), and nothing that judges sizes or resizes. An image that came is not asked for again.
    Failures are asked for again by the ages of `download:`, and after an edit of max_bytes, ports or allow_addresses. An image
    is asked for anew under a new URL only; a `#` and anything behind it makes one.

    Attributes:
        path: a .csv or .tsv file with a header, a .parquet file, or a .txt file with one URL a line.
        url_column: the column that holds the URL; `url` if there is one, or the only one.
        text_column: the column that holds the image's text; `text` if there is one, or the only one that is called
            like a text (caption, prompt, title ...); "" for none.
        max_rows: stop after so many rows.
    """

    kind: Literal["urls"]
    path: str
    url_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


Source = Annotated[
    FolderSource | HubSource | ParquetSource | WebDatasetSource | UrlsSource, Field(discriminator="kind")
]


class Prompts(Settings):
    """Seed prompts: a template with lists, a plain list, a text file; any of them together, in this order.

    Attributes:
        template: a text with `{name}` fields; every other key of the mapping is the list of one field, and every
            combination of them is a prompt, the last field varying fastest.
        texts: a plain list of prompts.
        file: a UTF-8 text file, one prompt a line; blank lines are passed over.
    """

    model_config = ConfigDict(extra="allow")

    template: str | None = None
    texts: tuple[str, ...] = ()
    file: str | None = None

    @property
    def fields(self) -> dict[str, list[str]]:
        """The lists that fill the template, by the name of their field."""
        return {name: list(values) for name, values in (self.model_extra or {}).items()}

    @model_validator(mode="after")
    def _template_fits_its_lists(self) -> "Prompts":
        for name, values in (self.model_extra or {}).items():
            if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
                raise ValueError(
                    f"`{name}` must be a list of texts that fills {{{name}}} of the template, got {values!r}"
                )
        used = set(re.findall(r"{(\w+)}", self.template or ""))
        for name in sorted(used - set(self.fields)):
            raise ValueError(f"the template uses {{{name}}}, but there is no list `{name}:`")
        for name in sorted(set(self.fields) - used):
            if self.template is None:
                raise ValueError(
                    f"the list `{name}:` needs a `template:` that uses {{{name}}}; a plain list is `texts:`"
                )
            raise ValueError(f"the list `{name}:` is used nowhere in the template {self.template!r}")
        if self.template is None and not self.texts and self.file is None:
            raise ValueError("give `template:` with its lists, `texts:` or `file:`")
        return self

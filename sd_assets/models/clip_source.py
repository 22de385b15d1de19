"""What the name of a CLIP means: an open_clip name, a repository of the Hub, or a folder; and which library reads its files."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from sd_assets.catalog import require_set
from sd_assets.errors import ModelError
from sd_assets.models.hub import HubCommit, first_hub_file, folder_digest, hub_commit
from sd_assets.settings import ClipSettings

OPEN_CLIP_CONFIG = "open_clip_config.json"
TRANSFORMERS_CONFIG = "config.json"
# In this order: repositories of open_clip often hold the files of transformers, too.
_CONFIGS = (OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG)
# The files of a tokenizer, of either library.
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")


class ClipSource:
    """A CLIP's name, and where its files are. Asks for nothing before it is needed."""

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings

    @cached_property
    def model(self) -> str:
        """The model as the catalogue names it."""
        return require_set(self.settings.model, "clip.model")

    @property
    def where(self) -> str:
        """Names it in messages."""
        return f"the CLIP {self.model!r}"

    @property
    def folder(self) -> Path | None:
        """The model's folder, if it is one of this machine."""
        _ = self.model  # says so if a variable in it is not set
        folder = self.settings.folder
        return None if folder is None else Path(folder).expanduser()

    @property
    def hub_id(self) -> str | None:
        """The model's repository, if it is one of the Hub."""
        return self.settings.hub_id

    @cached_property
    def commit(self) -> HubCommit:
        """What the revision of the repository means now.

        Raises:
            ModelError: the Hub does not have it.
        """
        return hub_commit(str(self.hub_id), self.settings.revision, _CONFIGS, self.where)

    @property
    def builtin(self) -> str | None:
        """The name that open_clip knows the model by, if it is one of its own."""
        named_otherwise = self.folder is not None or self.hub_id is not None
        return None if named_otherwise else self.model.replace("/", "-")  # as open_clip does

    @property
    def identity(self) -> str:
        """Names model and weights: `ViT-L-14/openai`, `hf-hub:org/model@commit`, `local-dir:` and a digest of the files.

        Raises:
            ModelError: the folder is missing, or the Hub does not have the model.
        """
        if self.folder is not None:
            return f"local-dir:{folder_digest(self.folder)}"
        if self.hub_id is not None:
            return f"hf-hub:{self.hub_id}@{self.commit.commit}"
        return f"{self.builtin}/{self.settings.pretrained}"

    @cached_property
    def config_file(self) -> Path:
        """Of a repository or folder, the file that describes the model: whose it is says which library reads it.

        Raises:
            ModelError: there is no such folder or repository, or it holds no such file.
        """
        if self.folder is None:
            return first_hub_file(self.commit, _CONFIGS, self.where)
        if not self.folder.is_dir():
            raise ModelError(
                f"{self.where}: the folder does not exist: give the one that holds {' or '.join(_CONFIGS)} and weights"
            )
        found = [self.folder / name for name in _CONFIGS if (self.folder / name).is_file()]
        if not found:
            raise ModelError(f"{self.where} is no CLIP: the folder holds neither {' nor '.join(_CONFIGS)}")
        return found[0]

    @property
    def of_transformers(self) -> bool:
        """Whether transformers reads the model; else open_clip does.

        Raises:
            ModelError: there is no such folder or repository, or it holds no model of either.
        """
        return self.builtin is None and self.config_file.name == TRANSFORMERS_CONFIG

    def advice(self) -> str:
        """What to do about files that cannot be loaded."""
        if self.folder is not None:
            return "Check its files."
        return "Check the network and HF_ENDPOINT, or name a `local-dir:path`."


def read_json(path: Path) -> Any:
    """A JSON file; None if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None

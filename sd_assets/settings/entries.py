"""An entry of the catalogue: all its sections together."""

from pydantic import model_validator

from sd_assets.settings.base import Settings
from sd_assets.settings.captioner import CaptionerSettings
from sd_assets.settings.checks import CheckSettings
from sd_assets.settings.clip import ClipSettings
from sd_assets.settings.curation import CurationSettings, NearDuplicateSettings
from sd_assets.settings.download import DownloadSettings
from sd_assets.settings.exports import ExportsSettings
from sd_assets.settings.push_to_hub import PushToHubSettings
from sd_assets.settings.retrieval import RetrievalSettings
from sd_assets.settings.scores import ScoreSettings
from sd_assets.settings.sources import Prompts, Source

NO_SEEDS = "a seed dataset needs `source:` (images), `prompts:`, or both"


class SeedDataset(Settings):
    """One entry, with the defaults merged in: one partition of every asset."""

    description: str = ""
    source: Source | None = None
    prompts: Prompts | None = None
    clip: ClipSettings
    captioner: CaptionerSettings = CaptionerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    download: DownloadSettings = DownloadSettings()
    scores: ScoreSettings = ScoreSettings()
    near_duplicates: NearDuplicateSettings = NearDuplicateSettings()
    curation: CurationSettings = CurationSettings()
    exports: ExportsSettings = ExportsSettings()
    push_to_hub: PushToHubSettings | None = None
    checks: CheckSettings = CheckSettings()

    @model_validator(mode="after")
    def _has_seeds(self) -> "SeedDataset":
        if self.source is None and self.prompts is None:
            raise ValueError(NO_SEEDS)
        return self

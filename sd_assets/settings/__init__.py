"""What an entry of the catalogue may say: one pydantic model per section, with its defaults, limits and meaning; a module a section.

Here is what a section may hold, and what of it changes results. How a file is read, merged and expanded, and how its mistakes are
reported, is in `sd_assets.catalog`. All names are imported from here: `from sd_assets.settings import ClipSettings`.
"""

from sd_assets.settings.base import Cosine, Host, Pixels, Settings, Texts
from sd_assets.settings.blocked import BlockedSettings, blocked_host, blocked_image, blocked_url
from sd_assets.settings.captioner import (
    CaptionerSettings,
    CaptionSettings,
    EndpointSettings,
    NumberedCaption,
    VariantName,
    numbered_names,
)
from sd_assets.settings.checks import MAX_FAILED, TOTAL, CheckSettings, FailureLimits, Share, limits_by_code
from sd_assets.settings.clip import ClipSettings
from sd_assets.settings.curation import LICENCE, SCORES, CurationSettings, NearDuplicateSettings
from sd_assets.settings.download import DownloadSettings, ResizeMode, parse_allowed_address
from sd_assets.settings.entries import NO_SEEDS, SeedDataset
from sd_assets.settings.exports import LAYOUTS, ExportsSettings, LayoutSettings
from sd_assets.settings.indices import (
    ClipRetrievalCorpus,
    CorpusSettings,
    DataCompCorpus,
    FaissIndexSettings,
    IndexBuildSettings,
    IndexSettings,
    ParquetCorpus,
    PartitionCorpus,
    ServiceIndexSettings,
    parse_bytes,
)
from sd_assets.settings.push_to_hub import PushToHubSettings
from sd_assets.settings.retrieval import HitFilters, KnownField, RetrievalSettings
from sd_assets.settings.scores import ScoreModelSettings, ScoreSettings
from sd_assets.settings.services import ServiceSettings, ServiceUrl, without_password
from sd_assets.settings.sources import (
    FolderSource,
    HubSource,
    ParquetSource,
    Prompts,
    Source,
    UrlsSource,
    WebDatasetSource,
)

__all__ = [
    "LAYOUTS",
    "LICENCE",
    "MAX_FAILED",
    "NO_SEEDS",
    "SCORES",
    "TOTAL",
    "BlockedSettings",
    "CaptionSettings",
    "CaptionerSettings",
    "CheckSettings",
    "ClipRetrievalCorpus",
    "ClipSettings",
    "CorpusSettings",
    "Cosine",
    "CurationSettings",
    "DataCompCorpus",
    "DownloadSettings",
    "EndpointSettings",
    "ExportsSettings",
    "FailureLimits",
    "FaissIndexSettings",
    "FolderSource",
    "HitFilters",
    "Host",
    "HubSource",
    "IndexBuildSettings",
    "IndexSettings",
    "KnownField",
    "LayoutSettings",
    "NearDuplicateSettings",
    "NumberedCaption",
    "ParquetCorpus",
    "ParquetSource",
    "PartitionCorpus",
    "Pixels",
    "Prompts",
    "PushToHubSettings",
    "ResizeMode",
    "RetrievalSettings",
    "ScoreModelSettings",
    "ScoreSettings",
    "SeedDataset",
    "ServiceIndexSettings",
    "ServiceSettings",
    "ServiceUrl",
    "Settings",
    "Share",
    "Source",
    "Texts",
    "UrlsSource",
    "VariantName",
    "WebDatasetSource",
    "blocked_host",
    "blocked_image",
    "blocked_url",
    "limits_by_code",
    "numbered_names",
    "parse_allowed_address",
    "parse_bytes",
    "without_password",
]

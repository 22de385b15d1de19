"""The catalogue as a resource."""

from pathlib import Path

import dagster as dg

from sd_assets import catalog
from sd_assets.settings import FaissIndexSettings, SeedDataset, ServiceIndexSettings


class CatalogResource(dg.ConfigurableResource["CatalogResource"]):
    """What to build, from what, with which models.

    Attributes:
        path: of the catalogue; empty: what `SD_ASSETS_CATALOG` names, or `seed_datasets.yaml` of the project.
    """

    path: str = ""

    def entry(self, partition: str) -> SeedDataset:
        """The entry of a partition, with the defaults merged in."""
        return self.read().entry(partition)

    def index(self, name: str) -> FaissIndexSettings | ServiceIndexSettings:
        """A kNN index."""
        return self.read().index(name)

    def read(self) -> catalog.Catalog:
        """All of it, read anew: an edit counts without a reload of the code location."""
        return catalog.load(Path(self.path) if self.path else None)

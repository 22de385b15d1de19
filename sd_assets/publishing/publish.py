"""Pushing a partition to the Hub: its files, its card and its record in one commit, or in none if nothing has changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import ExportError, HubError
from sd_assets.exports.export import export
from sd_assets.exports.layout import Written
from sd_assets.exports.parquet import Parquet
from sd_assets.provenance.origins import origins_of_kept
from sd_assets.publishing import card
from sd_assets.publishing.facts import current_tables, facts_of, sample
from sd_assets.publishing.repository import DATA, RECORD, DatasetRepository, RepositoryFolder
from sd_assets.settings import PushToHubSettings, SeedDataset
from sd_assets.storage.digests import json_digest
from sd_assets.storage.table import Table, TableStore

README: Final = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What a dataset of the Hub is now.

    Attributes:
        commit: the newest.
        record: of the export: versions of the tables, pairs by split, failures.
        written: what this run did with the Parquet files; None: they were as they are to be.
        url: of the dataset's page.
        changed: whether this run made the commit.
    """

    commit: str
    record: dict[str, Any]
    written: Written | None
    url: str
    changed: bool


def push(
    store: TableStore,
    partition: str,
    entry: SeedDataset,
    settings: PushToHubSettings,
    tables: Mapping[str, Table],
    log: Callable[[str], None],
) -> Pushed:
    """Bring a dataset of the Hub in line with the tables. Files that are there already are neither made nor sent again.

    Where no pair is left, the dataset is emptied before that is said to be an error: what was taken down is to go.

    Args:
        store: of the tables that the card speaks of.
        partition: the seed dataset.
        entry: of the catalogue.
        settings: where to push, and what.
        tables: those that an export is made of, by name: `exports.export.TABLES`.
        log: for a line of the log.

    Raises:
        HubError: no access; the repository holds something else; somebody else committed meanwhile; or no pair is kept.
        ExportError: no image of the kept pairs could be written.
        TableError: curated_pairs was made from another version of text_image_pairs.
    """
    any_kept = _any_kept(tables["curated_pairs"])
    repository = DatasetRepository(settings.repo_id, private=settings.private, create=any_kept)
    folder = RepositoryFolder(repository, partition)
    before = folder.record()
    _require_ours(repository, before.get("partition"), partition)
    if not any_kept:
        _empty(repository, folder, log)
        raise HubError(
            f"{partition}: no pair is kept, and an empty dataset is not pushed: the funnel of curated_pairs says what they were "
            f"lost by. What {settings.repo_id!r} held is deleted, as far as HF_TOKEN shows it"
        )
    origins = partial(origins_of_kept, store, partition)
    try:
        exported = export(Parquet(settings.parquet), folder, tables, log, origins)
    except ExportError:
        if not any(folder.names(split) for split in SPLITS):  # it has deleted what is not to be there
            _empty(repository, folder, log)
        raise
    record = exported.record
    described = json_digest(
        card.VERSION,
        settings.effects(),
        entry.description,
        entry.source.effects() if entry.source else None,
        entry.curation.effects(),
        # It speaks of all of them.
        {name: table.manifest.data_version for name, table in current_tables(store, partition).items()},
    ).hex()
    there = {README, card.CONTACT_SHEET} <= {*repository.names("")}
    if exported.written is None and before.get("card") == described and there:
        log(f"{repository.uri}: nothing has changed since commit {repository.head}")
        return Pushed(repository.head, record, None, repository.url, changed=False)
    _put_card(repository, store, partition, entry, settings, tables, record)
    folder.put_record({**record, "card": described})
    commit = repository.commit(f"{sum(record['pairs'].values())} pairs of {partition}")
    log(f"{repository.uri}: commit {commit}")
    return Pushed(commit, record, exported.written, repository.url, changed=True)


def _put_card(
    repository: DatasetRepository,
    store: TableStore,
    partition: str,
    entry: SeedDataset,
    settings: PushToHubSettings,
    tables: Mapping[str, Table],
    record: Mapping[str, Any],
) -> None:
    text_image_pairs, curated_pairs = tables["text_image_pairs"], tables["curated_pairs"]
    facts = facts_of(store, partition, text_image_pairs, curated_pairs)
    samples = list(sample(text_image_pairs, curated_pairs, facts.pairs, card.SAMPLES))
    captions = card.first_row([caption for _, caption in samples])
    published = card.Published(
        partition,
        entry,
        settings,
        facts,
        record["pairs"],
        record["failures"],
        curated_pairs.manifest.data_version,
        captions,
    )
    repository.put(card.CONTACT_SHEET, card.contact_sheet(image for image, _ in samples))
    repository.put(README, card.card(published).encode())


def _empty(repository: DatasetRepository, folder: RepositoryFolder, log: Callable[[str], None]) -> None:
    """Commit that neither pairs nor a card of them are there. The record stays, and with it the dataset ours."""
    doomed = [
        path
        for path in repository.files
        if path in (README, card.CONTACT_SHEET) or path.startswith(f"{DATA}/")
    ]
    if not doomed:
        return
    for path in doomed:
        repository.delete(path)
    folder.put_record({"layout": folder.layout, "partition": folder.partition, "pairs": {}})
    commit = repository.commit(f"no pairs of {folder.partition}")
    log(f"{repository.uri}: commit {commit}: {len(doomed)} files deleted, no pair is left")


def _any_kept(curated_pairs: Table) -> bool:
    return any(True in batch.column("keep").to_pylist() for batch in curated_pairs.batches(["keep"]))


def _require_ours(repository: DatasetRepository, found: str | None, partition: str) -> None:
    """Raises HubError if the repository holds what a push would overwrite."""
    if found is None and repository.files:
        raise HubError(
            f"{repository} holds files that did not come from here ({', '.join(repository.files[:3])}): {RECORD} is not there, or is "
            "not ours. Name a new one as `push_to_hub: repo_id:`, or delete these files on the Hub"
        )
    if found not in (None, partition):
        raise HubError(f"{repository} holds the pairs of {found!r}: name another one for {partition!r}")

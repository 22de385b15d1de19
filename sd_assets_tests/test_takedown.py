"""What is blocked goes from all that a partition keeps, and a run that is killed on the way loses no track of it."""

import itertools
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sd_assets.blocked import Blocked, normal_url
from sd_assets.compute.run import write_rows
from sd_assets.schemas import DOWNLOADED_IMAGES, IMAGE_CAPTIONS, TableSchema, text_id
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets.takedown import TakenDown, take_down

URL = "http://host.example/a.jpg"
IMAGE = "ab" * 32
BLOCKED = Blocked(urls=filter(None, [normal_url(URL)]))


class KilledAt(LocalFiles):
    """Files of a process that is killed before its n-th change of them (0: the first)."""

    def __init__(self, base: Path, changes: int) -> None:
        super().__init__(base)
        self._left = changes

    def _change(self) -> None:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        self._change()
        super().put(path, *data)

    def delete(self, path: str) -> None:
        self._change()
        super().delete(path)


class World:
    """An image that was downloaded from a URL, and captioned; then both left the tables, as the URL was blocked."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = TableStore(LocalFiles(base))
        self.news = 0
        image = {"url_id": text_id(URL), "url": URL, "image_id": IMAGE, "image": b"x"}
        self.commit(DOWNLOADED_IMAGES, [image])
        self.commit(
            IMAGE_CAPTIONS, [{"image_id": IMAGE, "variant": "default", "caption": "x", "origin": "model"}]
        )
        self.commit(DOWNLOADED_IMAGES, [])

    def commit(self, schema: TableSchema, rows: Iterable[Mapping[str, Any]]) -> None:
        area = self.store.area(schema.name, "p")
        write_rows(schema, [rows_of(schema, rows)], area, uuid.uuid4().hex).commit()

    def take_down(
        self, schema: TableSchema, *, files: LocalFiles | None = None, older_versions: bool = True
    ) -> TakenDown:
        store = TableStore(files) if files else self.store
        area = store.area(schema.name, "p")
        return take_down(store, area, BLOCKED, self._hear, older_versions=older_versions)

    def _hear(self) -> None:
        self.news += 1

    def captions_after(self) -> list[int]:
        """The versions of the captions that are left after their next refresh."""
        self.commit(IMAGE_CAPTIONS, [])
        self.take_down(IMAGE_CAPTIONS)
        return self.store.area(IMAGE_CAPTIONS.name, "p").versions()


def test_captions_of_an_image_from_a_blocked_url_go(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.take_down(DOWNLOADED_IMAGES) == TakenDown(1, [1])
    assert world.store.area(DOWNLOADED_IMAGES.name, "p").versions() == [2]
    assert world.news == 1
    assert world.captions_after() == [2]


def test_a_kill_at_every_change(tmp_path: Path) -> None:
    for changes in itertools.count():
        world = World(tmp_path / str(changes))
        try:
            world.take_down(DOWNLOADED_IMAGES, files=KilledAt(world.base, changes))
        except KeyboardInterrupt:
            world.news = 0
            world.take_down(DOWNLOADED_IMAGES)
            assert world.news == 1
            assert world.store.area(DOWNLOADED_IMAGES.name, "p").versions() == [2]
            assert world.captions_after() == [2]
        else:
            break
    # Two notes, a manifest, a shard and its index at least.
    assert changes >= 5


def test_news_that_could_not_be_told_are_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    with monkeypatch.context() as killed:

        def kill(self: World) -> None:
            raise KeyboardInterrupt

        killed.setattr(World, "_hear", kill)
        with pytest.raises(KeyboardInterrupt):
            world.take_down(DOWNLOADED_IMAGES, older_versions=False)
    world.take_down(DOWNLOADED_IMAGES, older_versions=False)
    assert world.news == 1
    # What is known by now is no news.
    assert world.take_down(DOWNLOADED_IMAGES, older_versions=False) == TakenDown(1, [1])
    assert world.news == 1


def test_after_a_kill_an_image_that_came_from_another_url_too_is_not_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    other = "http://other.example/a.jpg"
    world.commit(
        DOWNLOADED_IMAGES, [{"url_id": text_id(other), "url": other, "image_id": IMAGE, "image": b"x"}]
    )
    with monkeypatch.context() as killed:

        def kill(self: World) -> None:
            raise KeyboardInterrupt

        killed.setattr(World, "_hear", kill)
        with pytest.raises(KeyboardInterrupt):
            world.take_down(DOWNLOADED_IMAGES)
    assert world.captions_after() == [1, 2]


@pytest.mark.parametrize("note", [b"", b'{"digest": "', b"\xff\xfe"])
def test_a_damaged_note_is_written_anew(tmp_path: Path, note: bytes) -> None:
    world = World(tmp_path)
    world.store.area(DOWNLOADED_IMAGES.name, "p").put_note("blocked.json", note)
    assert world.take_down(DOWNLOADED_IMAGES) == TakenDown(1, [1])
    assert (world.news, world.captions_after()) == (1, [2])

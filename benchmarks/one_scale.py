"""`python -m benchmarks.one_scale FOLDER ROOM ROWS [ADDRESS]`: image embeddings by one engine, for `benchmarks.scale`.

The stage of the asset image_embeddings, from a Parquet table of the pictures in FOLDER (`benchmarks.model_folders`) to a
committed version, in ROOM: on the Ray cluster at ADDRESS, or here. Without a table there it is written first, and nothing
measured. Prints one JSON line last:

    seconds     from when all workers had loaded the model to the commit
    start_s     until then: workers, imports, the model
    rows        that were embedded
    workers     how many
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model_ours import pictures
from sd_assets.compute.ray.cluster import RaySettings
from sd_assets.compute.ray.engine import RayEngine
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import TEXT_IMAGE_PAIRS
from sd_assets.settings import ClipSettings
from sd_assets.stages.embed import ImageEmbedStage
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

_COLUMNS = ("image_id", "image", "error")


class StartedTogether(ImageEmbedStage):
    """Nobody begins before all have loaded the model. Says when that was.

    Args:
        encoder: the model.
        room: a folder where each says that it is there.
    """

    def __init__(self, encoder: ClipEncoder, room: Path) -> None:
        super().__init__(encoder)
        self._room = room

    def open(self) -> None:
        super().open()
        number, workers = self.seat
        (self._room / f"{number}.opened").write_text(repr(time.time()))
        while len(list(self._room.glob("*.opened"))) < workers:
            time.sleep(0.02)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    folder, base, rows = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    store = TableStore(LocalFiles(base / "tables"))
    pairs = store.find(TEXT_IMAGE_PAIRS.name, "pictures")
    if pairs is None:
        area = store.area(TEXT_IMAGE_PAIRS.name, "pictures")
        write_rows(
            TEXT_IMAGE_PAIRS, pictures(TEXT_IMAGE_PAIRS, folder / "pictures", rows), area, "made"
        ).commit()
        print(json.dumps({"rows": rows}))
        return
    run = f"run-{time.time_ns()}"
    opened = base / run
    opened.mkdir()
    engine = RayEngine(RaySettings(arguments[3])) if len(arguments) > 3 else None
    settings = ClipSettings(model=f"local-dir:{folder / 'clip'}")
    stage = StartedTogether(ClipEncoder(settings, device="cpu", precision="auto"), opened)
    area = store.area(stage.schema.name, run)
    began = time.time()
    staged = run_stage(
        stage, pairs.rows(_COLUMNS), area, run, lambda line: print(line, flush=True), engine=engine
    )
    report = staged.commit().report
    ended = time.time()
    if report["rows_ok"] != rows:
        raise SystemExit(f"of {rows} pictures {report['rows_ok']} were embedded")
    started = max(float(file.read_text()) for file in opened.glob("*.opened"))
    measured = {"seconds": ended - started, "start_s": started - began, "rows": rows}
    print(json.dumps({**measured, "workers": len(list(opened.iterdir()))}))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Where an image of the dataset comes from, and what became of it: all that the tables of its partition say, in one call.

    from sd_assets.provenance import trace
    from sd_assets.resources.storage import StorageResource

    trace(StorageResource().store(), "demo_rooms", image_id).as_json()

`python -m sd_assets trace demo_rooms IMAGE_ID` prints the same. `Origins` is the short form of it that exported metadata has.

Here belongs what finds the rows of an image in tables that there are. What does not: what makes those rows (`stages`), and
what is written beside exported images (`exports`).
"""

from sd_assets.provenance.origins import Origins
from sd_assets.provenance.telling import told
from sd_assets.provenance.tracing import Download, Provenance, Query, Version, trace

__all__ = ["Download", "Origins", "Provenance", "Query", "Version", "told", "trace"]

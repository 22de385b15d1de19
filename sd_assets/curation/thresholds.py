"""What speaks against a pair by itself: scores against thresholds, and where it came from."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.curation.reasons import high, low, unknown
from sd_assets.retrieval.filters import Filters, Mask, Reason
from sd_assets.settings import LICENCE, CurationSettings, HitFilters

# Float64, NaN where it is not known.
Scores = Mapping[str, npt.NDArray[np.float64]]

# What is known of images that were retrieved only.
_OF_RETRIEVAL = frozenset({"similarity"})


def against_scores(scores: Scores, settings: CurationSettings, retrieved: Mask) -> Iterator[tuple[str, Mask]]:
    """By reason the pairs that it is against, as masks of shape (n,).

    Args:
        scores: by name, shape (n,).
        settings: the thresholds.
        retrieved: which pairs have what the retrieval knows, shape (n,); of the others it is not asked.
    """
    for name in scores:
        least, most = settings.min.get(name), settings.max.get(name)
        if least is None and most is None:
            continue
        asked = retrieved if name in _OF_RETRIEVAL else np.ones_like(retrieved)
        # As the tables keep scores: the 0.2 of a table is less than the nearest double.
        values = scores[name].astype(np.float32)
        if least is not None:
            yield low(name), asked & (values < np.float32(least))
        if most is not None:
            yield high(name), asked & (values > np.float32(most))
        if name not in settings.unknown_passes:
            yield unknown(name), asked & np.isnan(values)


def against_origin(
    urls: pa.Array, licences: pa.Array, settings: CurationSettings, retrieved: Mask
) -> Iterator[tuple[str, Mask]]:
    """By reason the pairs that it is against: `licence`, `unknown_licence`, `host`; as masks of shape (n,).

    Args:
        urls: of the images.
        licences: as the corpus has them.
        settings: which licences and hosts pass.
        retrieved: which pairs were retrieved, shape (n,); seeds are not judged by where they came from.
    """
    filters = Filters(
        HitFilters(
            licences=settings.licences,
            hosts=settings.hosts,
            refused_hosts=settings.refused_hosts,
            unknown_passes=(LICENCE,) if LICENCE in settings.unknown_passes else (),
        )
    )
    hits = pa.RecordBatch.from_pydict({"url": urls, "licence": licences})
    for reason, mask in filters.left_out(hits, pa.array([], pa.string()), np.empty(0, np.int64)):
        name = unknown(LICENCE) if reason is Reason.LICENCE_UNKNOWN else str(reason)
        yield name, mask & retrieved

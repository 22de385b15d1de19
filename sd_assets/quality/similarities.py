"""retrieval_hits and retrieved_image_urls: whether queries found anything, and how similar it is."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.quality.distribution import Distribution
from sd_assets.quality.finding import Check, Finding, Severity, percent
from sd_assets.settings import CheckSettings
from sd_assets.storage.table import Table

HAVE_HITS = Check(
    "queries_have_hits",
    Severity.ERROR,
    "The share of queries that the index answered with nothing, against `checks.max_queries_without_hits` of the "
    "catalogue; and that there is a hit at all.",
)
SIMILARITIES = Check(
    "similarities_within_limits",
    Severity.ERROR,
    "The distribution of the hits' similarities; their medians, of image and of text queries, against "
    "`checks.min_median_similarity_images` and `checks.min_median_similarity_prompts` of the catalogue.",
)
URL_SIMILARITIES = Check(
    "similarities_are_numbers",
    Severity.WARNING,
    "The distribution of the URLs' best similarities, and that all of them are numbers.",
)


def judge_hits(table: Table, settings: CheckSettings) -> Iterator[Finding]:
    """`HAVE_HITS` and `SIMILARITIES` of retrieval_hits: of the queries that did not fail."""
    queries = without = hits = 0
    left_out: Counter[str] = Counter()
    kinds: dict[str, Distribution] = {}
    for batch in table.batches(["kind", "hits", "left_out", "error"]):
        batch = batch.filter(batch.column("error").is_null())
        for entry in batch.column("left_out").flatten().to_pylist():
            left_out[entry["reason"]] += entry["count"]
        lengths = pc.fill_null(pc.list_value_length(batch.column("hits")), 0)
        queries += len(batch)
        without += pc.sum(pc.equal(lengths, 0)).as_py() or 0
        hits += pc.sum(lengths).as_py() or 0
        for kind in batch.column("kind").unique().to_pylist():
            of_kind = batch.column("hits").filter(pc.equal(batch.column("kind"), kind))
            _add(
                kinds.setdefault(str(kind), _similarities()), pc.struct_field(of_kind.flatten(), "similarity")
            )
    share = without / queries if queries else 0.0
    passed = share <= settings.max_queries_without_hits and (hits > 0 or queries == 0)
    said = f"{hits} hits; {without} of {queries} queries ({percent(share)}) have none"
    if left_out:
        counts = ", ".join(f"{reason} {count}" for reason, count in left_out.most_common())
        said += f"; left out: {counts}"
    if not passed:
        said += (
            f", and checks.max_queries_without_hits is {percent(settings.max_queries_without_hits)}: look whether the "
            "index of the entry's `retrieval` is the right one, whole, and not emptied by filters, the entry's or the service's"
        )
    yield HAVE_HITS.found(
        passed,
        said,
        queries=queries,
        queries_without_hits=without,
        share_without_hits=share,
        hits=hits,
        left_out=dict(left_out),
        limit=settings.max_queries_without_hits,
    )
    yield _against_medians(kinds, settings)


def judge_urls(table: Table) -> Iterator[Finding]:
    """`URL_SIMILARITIES` of retrieved_image_urls."""
    found = _similarities()
    for batch in table.batches(["similarity", "error"]):
        _add(found, batch.column("similarity").filter(batch.column("error").is_null()))
    said = f"{_summary(found)} over {found.count} URLs"
    if found.not_finite:
        said = (
            f"{found.not_finite} of {found.count + found.not_finite} URLs have no number as their similarity, so that "
            "the best of their hits is not known: see retrieval_hits and its index"
        )
    yield URL_SIMILARITIES.found(
        found.not_finite == 0, said, not_finite=found.not_finite, similarity=found.as_dict()
    )


def _against_medians(kinds: dict[str, Distribution], settings: CheckSettings) -> Finding:
    limits = {
        "image": ("min_median_similarity_images", settings.min_median_similarity_images),
        "text": ("min_median_similarity_prompts", settings.min_median_similarity_prompts),
    }
    wrong = []
    for kind, found in kinds.items():
        name, limit = limits.get(kind, ("", None))
        median = found.quantile(0.5)
        if found.not_finite:
            wrong.append(f"{found.not_finite} hits of {kind} queries have no number as their similarity")
        if limit is not None and median is not None and median < limit:
            wrong.append(
                f"the median similarity of the hits of {kind} queries is {median:.3f}, below checks.{name}, {limit:g}"
            )
    said = (
        "; ".join(f"hits of {kind} queries: {_summary(found)}" for kind, found in kinds.items()) or "no hits"
    )
    if wrong:
        said = (
            f"{'; '.join(wrong)}: look whether the index was made with the entry's CLIP, and whether it holds the like "
            "of the seeds; what is low by nature needs a lower limit"
        )
    return SIMILARITIES.found(
        not wrong,
        said,
        not_finite=sum(found.not_finite for found in kinds.values()),
        similarity={kind: found.as_dict() for kind, found in kinds.items()},
        limits={kind: limit for kind, (_, limit) in limits.items()},
    )


def _similarities() -> Distribution:
    return Distribution(-1.0, 1.0)


def _add(found: Distribution, values: pa.Array) -> None:
    found.add(values.to_numpy(zero_copy_only=False))  # a null becomes NaN


def _summary(found: Distribution) -> str:
    if not found.count:
        return "no similarities"
    numbers = found.as_dict()
    return f"similarity {numbers['min']:.3f} to {numbers['max']:.3f}, median {numbers['median']:.3f}"

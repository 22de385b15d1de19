"""Near-duplicates among many images, against looking at each pair."""

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.curation import near
from sd_assets.curation.clusters import Clusters
from sd_assets.curation.near import near_pairs
from sd_assets.curation.signatures import Signatures
from sd_assets.settings import NearDuplicateSettings

COUNT, DIM = 300, 80


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_BLOCK", 64)
    monkeypatch.setattr(near, "_DIRECTIONS", 12)


def images(seed: int = 0, count: int = COUNT) -> Signatures:
    """A third of them are copies of others: more or less the same embedding and hash; some have no embedding, or no hash."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIM)) * (1 + np.arange(DIM)) ** -0.5
    hashes = rng.integers(0, 2**63, count).astype(np.uint64) * np.uint64(2)
    for copy in range(2 * count // 3, count):
        original = rng.integers(0, copy)
        vectors[copy] = (
            vectors[original] + rng.uniform(0, 0.3) * rng.standard_normal(DIM) * (1 + np.arange(DIM)) ** -0.5
        )
        flipped = rng.choice(64, rng.integers(0, 20), replace=False)
        hashes[copy] = hashes[original] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    has_vector, has_hash = rng.random(count) > 0.05, rng.random(count) > 0.05
    vectors[~has_vector] = 0
    hashes[~has_hash] = 0
    ids = pa.array([f"{number:08x}" for number in rng.permutation(2**20)[:count]])
    return Signatures(ids, vectors.astype(np.float32), has_vector, hashes, has_hash, frozenset({"m"}))


def is_near(
    one: tuple[Signatures, int], other: tuple[Signatures, int], nearness: NearDuplicateSettings
) -> bool:
    """The rule, as `NearDuplicateSettings` has it."""
    (left, i), (right, j) = one, other
    cosine = float(left.vectors[i] @ right.vectors[j]) if left.has_vector[i] and right.has_vector[j] else None
    distance = (
        int(left.hashes[i] ^ right.hashes[j]).bit_count() if left.has_hash[i] and right.has_hash[j] else None
    )
    if nearness.min_cosine is not None and cosine is not None and cosine >= nearness.min_cosine:
        return True
    if nearness.max_hash_distance is None or distance is None or distance > nearness.max_hash_distance:
        return False
    least = nearness.min_cosine_of_hashes
    return least is None or (cosine is not None and cosine >= least)


RULES = [
    NearDuplicateSettings(max_hash_distance=10, min_cosine_of_hashes=0.85, min_cosine=0.97),
    NearDuplicateSettings(max_hash_distance=10, min_cosine_of_hashes=None, min_cosine=None),
    NearDuplicateSettings(max_hash_distance=None, min_cosine=0.9),
    # More than a hundredth of a block: it is multiplied in full.
    NearDuplicateSettings(max_hash_distance=0, min_cosine_of_hashes=0.99, min_cosine=0.5),
]


@pytest.mark.parametrize("rule", RULES, ids=["both", "hashes", "embeddings", "many"])
def test_all_pairs_are_found_and_no_others(rule: NearDuplicateSettings) -> None:
    ours = images()
    found = {
        (i, j)
        for pairs in near_pairs(ours, rule)
        for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    }
    expected = {
        (i, j) for i, j in itertools.combinations(range(COUNT), 2) if is_near((ours, i), (ours, j), rule)
    }
    assert len(expected) > 20
    assert found == expected


@pytest.mark.parametrize("rule", RULES, ids=["both", "hashes", "embeddings", "many"])
def test_all_that_are_near_others_are_found(rule: NearDuplicateSettings) -> None:
    whole = images()
    ours, theirs = part(whole, np.arange(100, COUNT)), part(whole, np.arange(130))
    found = {
        (i, j)
        for pairs in near_pairs(ours, rule, theirs)
        for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    }
    everything = itertools.product(range(len(ours)), range(len(theirs)))
    assert found == {(i, j) for i, j in everything if is_near((ours, i), (theirs, j), rule)}
    assert len(found) > 20


def part(whole: Signatures, places: npt.NDArray[np.int64]) -> Signatures:
    return replace(
        whole,
        ids=whole.ids.take(pa.array(places)),
        **{name: getattr(whole, name)[places] for name in ("vectors", "has_vector", "hashes", "has_hash")},
    )


def clustered(ours: Signatures) -> tuple[dict[str, str], dict[str, tuple[str | None, float, int]]]:
    """By id the cluster, and the nearest with cosine and distance."""
    clusters = Clusters(ours.ids)
    clusters.add(near_pairs(ours, RULES[0]))
    names = ours.ids.to_pylist()
    nearest = {
        name: (names[at] if at >= 0 else None, float(np.nan_to_num(cosine, nan=-2)), int(distance))
        for name, at, cosine, distance in zip(
            names, clusters.nearest, clusters.cosine, clusters.distance, strict=True
        )
    }
    return dict(zip(names, (names[at] for at in clusters.leaders()), strict=True)), nearest


def test_clusters_are_what_is_connected_by_name_of_the_least() -> None:
    ours = images()
    names = ours.ids.to_pylist()
    group = {name: {name} for name in names}
    for pairs in near_pairs(ours, RULES[0]):
        for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            joined = group[names[i]] | group[names[j]]
            group.update(dict.fromkeys(joined, joined))
    assert max(map(len, group.values())) > 2  # some are near only by way of a third
    assert clustered(ours)[0] == {name: min(members) for name, members in group.items()}


def test_neither_clusters_nor_nearest_depend_on_the_order() -> None:
    ours = images()
    places = np.random.default_rng(5).permutation(COUNT)
    assert clustered(part(ours, places)) == clustered(ours)


def test_the_nearest_is_the_one_of_the_highest_cosine() -> None:
    ours = images()
    names = ours.ids.to_pylist()
    _, nearest = clustered(ours)
    for i, name in enumerate(names):
        near_ones = [j for j in range(COUNT) if j != i and is_near((ours, i), (ours, j), RULES[0])]
        both = [j for j in near_ones if ours.has_vector[i] and ours.has_vector[j]]
        if not near_ones:
            assert nearest[name][0] is None
        elif both:
            best = max(float(ours.vectors[i] @ ours.vectors[j]) for j in both)
            assert nearest[name][1] == pytest.approx(best, abs=1e-6)


def test_nothing_is_near_where_there_is_nothing() -> None:
    assert not list(near_pairs(part(images(), np.empty(0, np.int64)), RULES[0]))

"""Which kind of FAISS index suits so many vectors and so much memory, as a text for its index factory.

- Up to 20,000 vectors all are compared (`Flat`): that is exact, and quick enough.
- Beyond, vectors lie in about 4 * sqrt(n) inverted lists, of which a query looks into some. They are kept as they are (`Flat`), in
  float16 (`SQfp16`), in 8 bits a number (`SQ8`), or as product-quantized codes (`OPQ..,PQ..`): the first that fits the memory.
- From 16,384 lists on an HNSW graph finds the lists.

A graph over all vectors (`HNSW32`) can be asked for by name. It answers faster, but takes many times longer to build than lists do, must
lie in memory as a whole, and comes out a little different each time, as its threads race.
"""

from __future__ import annotations

import math
import re

EXACT_UP_TO = 20_000
_HNSW_FROM_LISTS = 16_384
# FAISS wants so many training vectors for a list at least.
MIN_PER_LIST = 39
_PER_LIST = 64
_ID_BYTES = 8
_CODE_BYTES = (256, 128, 64, 48, 32, 24, 16, 8)


def chosen_kind(vectors: int, dim: int, memory: int) -> str:
    """The factory text of the index to build.

    Args:
        vectors: how many there are.
        dim: of each.
        memory: bytes that the index may take; where nothing fits, the smallest kind is taken.
    """
    if vectors <= EXACT_UP_TO and 4 * dim * vectors <= memory:
        return "Flat"
    lists = lists_for(vectors)
    inverted = f"IVF{lists}_HNSW32" if lists >= _HNSW_FROM_LISTS else f"IVF{lists}"
    room = (memory - 4 * dim * lists) / vectors - _ID_BYTES
    for kept, size in (("Flat", 4 * dim), ("SQfp16", 2 * dim), ("SQ8", dim)):
        if size <= room:
            return f"{inverted},{kept}"
    sizes = [size for size in _CODE_BYTES if 2 * size <= dim] or [1]
    size = next((size for size in sizes if size <= room), sizes[-1])
    # A rotation to a few numbers a byte of the code loses least.
    return f"OPQ{size}_{size * min(dim // size, 4)},{inverted},PQ{size}x8"


def lists_for(vectors: int) -> int:
    """About 4 * sqrt(n), a power of two, and so few that each can be trained."""
    lists = 2 ** round(math.log2(4 * math.sqrt(max(1, vectors))))
    while lists > 1 and lists * MIN_PER_LIST > vectors:
        lists //= 2
    return int(lists)


def training_rows(factory: str, lists: int) -> int:
    """Vectors that suffice to train an index."""
    # A product quantizer has 256 centroids of its own, and is trained with up to 256 vectors for each.
    return max(_PER_LIST * lists, 65_536 if re.search(r"PQ|LSQ|RQ", factory) else 16_384)

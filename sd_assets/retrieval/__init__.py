"""kNN indices: from query embeddings to the URLs of similar images.

Belongs here: the protocol that every kind of index answers to, the kinds themselves (a local FAISS folder, a clip-retrieval
service), the folder layout that they share with clip-retrieval, and the choice of a query's hits among what an index finds
(filters, duplicates), and building such a folder of a corpus (`build`, `corpora`).

Does not belong here: how queries are embedded (`models`), what becomes of the hits (`stages`), fetching images (`download`).
"""

from sd_assets.retrieval.index import Answers, KnnIndex, open_index

__all__ = ["Answers", "KnnIndex", "open_index"]

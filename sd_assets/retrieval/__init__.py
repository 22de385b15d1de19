"""kNN indices: from query embeddings to the URLs of similar images.

Belongs here: the protocol that every kind of index answers to, the kinds themselves (a local FAISS folder, a clip-retrieval
service), and the folder layout that they share with clip-retrieval.

Does not belong here: how queries are embedded (`models`), what becomes of the hits (`stages`), fetching images (`download`).
"""

from sd_assets.retrieval.index import Answer, Hit, KnnIndex, open_index

__all__ = ["Answer", "Hit", "KnnIndex", "open_index"]

"""The client of clip-retrieval services (`clip-retrieval back`): one index, served in one place or in several.

Belongs here: where the index is served (`services`), who of them is asked, and when again (`pool`); what can be told before
the first query (`probe`); the columns of an answer (`results`); and the index that these make up (`index`).

Does not belong here: one HTTP exchange (`sd_assets.services`); what is asked for when results are filtered away, and how a row
of the table is made of them.
"""

from sd_assets.retrieval.service.index import ServiceIndex

__all__ = ["ServiceIndex"]

"""The curated pairs as trainers read them: one layout a module, each written so that a refresh writes what has changed.

Here belong the layouts (`LAYOUTS` of `exports.export`), what of a pair is written (`pair`), which bytes of its image
(`picture`), and how files come, stay and go (`folder`, `pair_files`, `shards`). What does not: which pairs are kept
(`curation`), what is asked for (`settings.exports`), the Hub.
"""

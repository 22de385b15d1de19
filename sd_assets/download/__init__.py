"""Fetching images from the web: what may be connected to, how to ask, when to ask again, and resizing what came.

Here belongs what turns a URL into pixels of the right size or into an error code: the address policy, HTTP, retries,
politeness, resizing. Not here: which URLs there are (retrieval), what an image is (`sd_assets.images`), tables, reuse
between runs and Dagster. `addresses`, `codes` and `resize` import no HTTP client; `fetch` and `downloader` do, so
they are imported where they are used.
"""

"""Fetching images from the web: what may be connected to, how to ask, when to ask again, and resizing what came.

Here belongs what turns a URL into pixels of the right size or into an error code: the address policy, HTTP, robots.txt,
turns at hosts, retries, resizing. Not here: which URLs there are (retrieval), what an image is (`sd_assets.images`),
tables, reuse between runs and Dagster.

`downloader` is the way in. It makes attempts with `fetch`, which waits for `robots` and for a turn of `hosts`, asks over the
connections of `session`, and reads with `answer`; `finish` makes the image; `stream` hands it to the consumer; `room` bounds
the memory of it all. `addresses`, `codes`, `request` and `resize` import no HTTP client; `downloader` does, so it is imported
where it is used.
"""

"""Tables as Parquet: shards, manifests, versions, table handles.

Here belongs everything that decides what is on disk (or in a bucket) and when it becomes current. What does not:
what the rows mean (`stages`), when a stage runs (`compute`), and Dagster (`resources`).

From the bottom up: `files` (the few atomic operations that all the rest is made of), `digests` (rows to hashes),
`rows` (images that wait to be read), `shards` (rows to Parquet files, cut by content), `area` (the folders of one
partition: manifests, commit, work in progress, sweep), `table` (reading one version), `staging` (one run's work on the
next version), `lookup` (rows by a value), `housekeeping` and `verify` (what is there, and whether it is as written).
"""

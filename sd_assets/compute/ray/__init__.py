"""Running a stage on a Ray cluster that exists.

Here belongs how work is dealt to workers of a cluster, and what becomes of it when one of them dies. What does not: what the
work is (`stages`), what a run keeps (`storage`). Workers read their rows from the storage and write what they finish to it;
between them and the driver, which is the process of the Dagster step, go keys, digests and places.

`engine` is the driver, `dealing` decides who computes what, `worker` is a worker, `cluster` knows the cluster.
"""

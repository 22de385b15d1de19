"""Asset checks: which findings of `quality` belong to which asset, and how Dagster is told of them.

Here belong the definitions that Dagster runs after an asset was materialized. What does not: how anything is judged
(`quality`), the limits it is judged by (the catalogue, `checks:`).
"""

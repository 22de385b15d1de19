"""A stage per table: what it reads, its schema, its version, and the map from rows to rows.

Here belongs what a row means and what makes it. What does not: the algorithms themselves (`models`, `retrieval`,
`download`, `sources`), where the rows come from (`assets`), how a stage is run (`compute`), how rows are kept
(`storage`). `stage.Stage` is the contract; `urls`, `near_duplicates` and `curate` are reductions, which need no
model and see whole tables; `pairs` joins tables, row by row.
"""

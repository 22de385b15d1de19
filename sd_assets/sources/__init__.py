"""Seed datasets: where images and prompts come from, read one row at a time.

Here belongs how a folder, a Hub dataset or a list of prompts becomes rows, in a fixed order, with nothing dropped in
silence. What the bytes of an image are worth (`sd_assets.images`), duplicates, tables and Dagster do not. A source that
costs requests (`urls`) asks the storage what came in an earlier run.
"""

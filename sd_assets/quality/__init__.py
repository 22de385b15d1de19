"""What is right and wrong about a table that was made: numbers, and findings against the limits of the catalogue.

Here belong the checks themselves: functions of a `Table`, which stream over its small columns (never an image) and hold
some bytes a row at most. What does not: Dagster (`checks`), what a table must satisfy before it is committed at all
(`storage`), pictures of it.
"""

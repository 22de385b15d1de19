"""One script per figure that the README quotes: `python -m benchmarks.NAME` prints one JSON line last.

These are `bookkeeping` (for docs/scale.md), `curation`, `download`, `load`, `memory`, `models`, `refresh`, `report` and
`retrieval`; the other modules are what they are made of.
"""

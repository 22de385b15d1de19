"""One script per figure that the README quotes: `python -m benchmarks.NAME` prints one JSON line last.

These are `load` and `memory`; the other modules are what `memory` is made of.
"""

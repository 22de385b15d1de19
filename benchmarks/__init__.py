"""One script per figure that the README quotes: `python -m benchmarks.NAME` prints one JSON line last."""

"""The whole pipeline through Dagster, on a small embedded world."""

"""Tests of sd_assets.retrieval.corpora."""

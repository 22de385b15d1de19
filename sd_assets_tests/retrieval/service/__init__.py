"""Tests of sd_assets.retrieval.service."""

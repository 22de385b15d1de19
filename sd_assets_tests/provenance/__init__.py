"""Tests of sd_assets.provenance."""

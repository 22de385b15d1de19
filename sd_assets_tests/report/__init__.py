"""Tests of sd_assets.report."""

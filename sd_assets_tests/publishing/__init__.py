"""Tests of sd_assets.publishing."""

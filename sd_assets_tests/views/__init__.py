"""Tests of sd_assets.views."""

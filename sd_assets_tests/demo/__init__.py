"""Tests of sd_assets.demo."""

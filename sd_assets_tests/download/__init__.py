"""Tests of `sd_assets.download`, against real servers on loopback."""

"""Tests; the folders mirror sd_assets. Real components throughout; mocks only for what cannot be had."""

"""Mirrors sd_assets.stages."""

"""Mirrors sd_assets.resources."""

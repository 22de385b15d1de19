"""Mirrors sd_assets.automation."""

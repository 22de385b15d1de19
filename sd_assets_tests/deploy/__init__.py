"""Mirrors deploy/: its files, used as they are where that can be done here, and checked against schemas where it cannot."""

"""Tests that the benchmarks run, tiny; what they measure is for whoever runs them whole."""

"""Weights to start from: found, read without running anything, their names brought to ours, copied into a network."""

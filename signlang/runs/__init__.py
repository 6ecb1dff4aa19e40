"""Runs: identity, folder, life cycle, training and results."""

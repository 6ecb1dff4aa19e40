"""Metrics: classification, calibration, significance and factor effects."""

"""Multirun: jobs, launcher, sweeper and hyper-parameter search."""

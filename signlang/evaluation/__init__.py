"""Evaluation of a network on labelled images."""

"""Data cards: statistics, duplicates and label errors of a data set."""

"""A run: its settings, its name, its folder, and what proves how it was made."""

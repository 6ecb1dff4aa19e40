"""Report pages, plots and formatting."""

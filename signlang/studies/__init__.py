"""Run folders come in; tables, statistics, figures and a report go out."""

"""Export of a finished run as a bundle that needs no torch."""

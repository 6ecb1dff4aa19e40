"""What probabilities say, and how far they can be believed."""

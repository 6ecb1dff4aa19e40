"""What a multirun is made of: which jobs there are, and where they run."""

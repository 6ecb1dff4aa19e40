"""Pictures: from folders of files to shuffled, augmented batches."""

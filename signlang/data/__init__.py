"""Data: sources, image index, splits, image cache, augmentation and the LightningDataModule."""

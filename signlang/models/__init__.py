"""Networks, weights and the LightningModule."""

"""Networks: from a name to logits."""

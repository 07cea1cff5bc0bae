"""Checkpoint folders: weights, card, import of foreign weights, and where a network comes from."""

"""Results and checkpoints in the formats of others, written without network."""

"""One file a method: its hyperparameters, how it crafts, and its loss."""

"""Defenses: one file a method, a frozen dataclass of hyperparameters and its objective."""

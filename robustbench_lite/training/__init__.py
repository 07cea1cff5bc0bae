"""Training: recipes, the loop, validation, run folders."""

"""Training recipes, one TOML each; read by `robustbench_lite.training.recipe`."""

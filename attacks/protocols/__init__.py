"""Named evaluation protocols, one TOML each; read by `robustbench_lite.attacks.protocol`."""

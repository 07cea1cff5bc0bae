"""Signs that a number cannot be trusted: thresholds and the checks behind them."""

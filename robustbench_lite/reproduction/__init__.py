"""Published numbers beside ours: what was measured, and whether it can be compared."""

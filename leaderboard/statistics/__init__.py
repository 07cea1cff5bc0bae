"""Intervals, ranks, paired tests, accuracy by class, detection metrics."""

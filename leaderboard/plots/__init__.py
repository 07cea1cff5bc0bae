"""Figures of results and trainings."""

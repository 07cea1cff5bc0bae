"""Stored results: found, read, and checked against themselves."""

"""Evaluation: a protocol against a network, part by part, resumable at any moment."""

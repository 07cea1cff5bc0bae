"""Faster networks to search on: same function, cheaper passes; never the verifier."""

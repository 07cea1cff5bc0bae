"""Attacks, each a contract (`attacks/contract.py`), and the protocols made of them."""

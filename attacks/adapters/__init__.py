"""Attacks of other packages behind our calling contract, one module a package."""

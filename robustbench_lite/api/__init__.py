"""The Python door: attack, evaluate and compare networks that live in memory, in one call each.

Thin: what comes in is checked once and made into the same network, split and protocol as the
command line's, and the same functions do the work.
"""

"""Submitting a defense: a folder, its checks, its entry with evidence, the entry verified.

`manifest` reads the folder, `checks` gives a reviewer's verdict on it, `entry` evaluates it,
`verification` looks whether an entry is true. Submitted code runs in a process of its own
(`isolation`, `worker`).
"""

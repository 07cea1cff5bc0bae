"""Submitting a defense: a folder, its checks, its entry with evidence, the entry verified.

`manifest` reads the folder, `review` says what a reviewer would, `entry` evaluates it,
`verification` checks whether an entry is true. Submitted code runs in a process of its own
(`isolation`, `isolated_job`).
"""

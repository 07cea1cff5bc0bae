"""Gradient attacks outside AutoAttack: FGSM, PGD, Carlini-Wagner L2, BPDA."""

"""Attacks: pure functions `(model, x, y, *, ...) -> x_adv`, and the protocols made of them."""

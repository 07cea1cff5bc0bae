"""Ground truth for the attacks: networks whose robust accuracy is known from outside of them."""

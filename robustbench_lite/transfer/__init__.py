"""Transfer attacks: images crafted on one network, judged on another."""

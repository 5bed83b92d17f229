"""Several processes as one: what they exchange, and weights that are shared out among them."""

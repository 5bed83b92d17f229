"""What answers with a network: a backend that computes it, the keys and values of what decodes, decoding."""

"""What a user would write instead: a LitServe server around `generate`, with the batching that LitServe offers."""

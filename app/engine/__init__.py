"""Requests in, numbers out: an async face, a pure scheduler, and one thread that owns the model."""

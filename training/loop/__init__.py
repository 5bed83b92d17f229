"""A run, step by step: precision, meter, validation, state, what stops it. Knows no Hydra and no data format."""

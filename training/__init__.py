"""Data to checkpoint: what `python -m training.train` and its siblings do. Knows `model`, never `app`."""

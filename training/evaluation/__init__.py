"""How good a checkpoint is: predictions with the server's decoding, scores with their uncertainty, reports, cards."""

"""Text out of logits: options and results, the rows in flight, greedy, sampling and beam search on one step."""

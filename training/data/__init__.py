"""Rows on disk to batches of ids."""

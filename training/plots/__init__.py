"""Figures as PNG files: one style, learning curves, results on dev."""

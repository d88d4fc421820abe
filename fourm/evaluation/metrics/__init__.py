"""Metrics that are more than sums over samples: of distributions, boxes, captions and spreads."""

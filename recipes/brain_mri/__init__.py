"""Unsupervised anomaly detection in brain MRI: reconstruct healthy anatomy, score what disagrees by fusion quality."""

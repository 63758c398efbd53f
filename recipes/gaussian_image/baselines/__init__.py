"""Gaussian images without structure, to compare with: GaussianImage (ECCV 2024) and LIG (AAAI 2025)."""

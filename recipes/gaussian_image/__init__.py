"""Structured Gaussian images: a photograph as seeds, two small networks and an entropy-coded file."""

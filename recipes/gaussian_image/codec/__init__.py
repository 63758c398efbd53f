"""File format of structured Gaussian images: one self-contained, checksummed, randomly accessible file."""

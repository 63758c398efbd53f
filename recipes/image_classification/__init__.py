"""Image classification: data, the papers' networks, the methods side by side."""

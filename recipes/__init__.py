"""Worked recipes: each a short CLI entry on top of `lightning_cim`, with the data and models of one field beside it."""

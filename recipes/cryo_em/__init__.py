"""Heterogeneous cryo-EM reconstruction: from particle images to a continuous family of density maps."""

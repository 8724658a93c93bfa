"""Training of VAEs."""

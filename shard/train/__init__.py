"""Training of the towers."""

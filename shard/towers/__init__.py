"""User and item towers, their embedding tables, and the encoder of user features."""

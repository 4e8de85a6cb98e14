"""Publishing: from items as a user brings them to a snapshot."""

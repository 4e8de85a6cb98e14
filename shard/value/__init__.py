"""The value model: formulas that turn task predictions, item fields and the request into one score."""

"""Filters: schema, language, plane programs and exact verification."""

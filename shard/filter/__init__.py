"""Filters: language, compiler, plane programs and exact verification."""

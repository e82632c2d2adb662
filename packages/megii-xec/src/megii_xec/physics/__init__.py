"""Geometry and formulas; nothing here knows about networks."""

"""Encoders and their blocks."""

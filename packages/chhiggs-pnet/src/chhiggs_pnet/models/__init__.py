"""Blocks, encoders and heads; plain keyword arguments."""

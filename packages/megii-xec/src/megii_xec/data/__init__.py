"""Readers, normalisation and data sets."""

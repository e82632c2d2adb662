"""Direct, binned and vector-quantised tokens for four-top classification."""

__version__ = "0.1.0"

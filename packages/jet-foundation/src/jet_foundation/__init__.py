"""Foundation models for jets: masked-particle pre-training and downstream tasks."""

__version__ = "0.1.0"

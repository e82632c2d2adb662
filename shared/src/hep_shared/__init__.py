"""What the five packages share: configs, runs, checkpoints, farms, export."""

__version__ = "0.1.0"

"""One thread a process: the runner starts a worker on every core, and equal sums need equal threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

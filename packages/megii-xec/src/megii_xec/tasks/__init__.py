"""One module per task; each offers `build_model`, `build_stream` and `compute_loss`.

A verb picks the module by `config.task.kind` and never asks which one it got.
"""

from types import ModuleType

from megii_xec.tasks import regression

TASKS: dict[str, ModuleType] = {"regression": regression}

"""One module per task; each offers `build_model`, `build_streams` and `compute_loss`.

A verb picks the module by `config.task.kind` and never asks which one it got.
"""

from types import ModuleType

from chhiggs_pnet.tasks import classification

TASKS: dict[str, ModuleType] = {"classification": classification}

"""One module per task; each offers `build_model`, `build_streams`, `compute_loss`, `validate` and `evaluate`.

A verb picks the module by `config.task.kind` and never asks which one it got.
"""

from types import ModuleType

from fourtop_tokens.tasks import classification, vqvae

TASKS: dict[str, ModuleType] = {"classification": classification, "vqvae": vqvae}

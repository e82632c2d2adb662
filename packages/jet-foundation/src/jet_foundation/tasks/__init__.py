"""One module per task; each offers `build_model`, `compute_loss`, `validate` and `evaluate`.

`HEADLINE` names the metrics that a finished training prints, `FINISH` what can follow it; data, stamps and
encoders are common to all. A verb picks the module by `config.task.kind` and never asks which one it got.
"""

from types import ModuleType

from jet_foundation.tasks import classification, event, generation, pretrain, regression, super_resolution

TASKS: dict[str, ModuleType] = {
    "classification": classification,
    "event": event,
    "generation": generation,
    "pretrain": pretrain,
    "regression": regression,
    "super_resolution": super_resolution,
}

"""One module per task; a verb picks it by `config.task.kind` and never asks which one it got.

Each offers

    build_model, build_streams, build_stream     what is trained, and the events
    calibrate                                    what a fresh network measures with the training events
    preparation                                  turns a batch as read into what an epoch trains on
    compute_loss, training_metrics, validate     the loss of a batch, the metrics of training and validation
    stamp, check_stamp, load_encoder             the hand-over of weights
    FINISH                                       which of `export`, `evaluate` can follow a training
"""

from types import ModuleType

from megii_xec.tasks import inpaint, pretrain, regression

TASKS: dict[str, ModuleType] = {"regression": regression, "pretrain": pretrain, "inpaint": inpaint}

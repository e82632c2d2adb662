r"""Losses of the tasks, in single precision whatever the network computes in.

    L = −Σ_c y_c log softmax(z)_c,    y = (1 − ε) one-hot + ε / C

with the label smoothing ε of C. Szegedy et al., arXiv:1512.00567.

Dimensions: B jets, C classes.
"""

from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy.

    Args:
        logits: Scores z of the classes, (B, C).
        labels: Class numbers, (B,) int64.
        label_smoothing: Share ε of a label that all classes divide.

    Returns:
        Mean over the jets, scalar, nats.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

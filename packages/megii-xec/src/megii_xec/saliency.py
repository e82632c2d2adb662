r"""What a network looks at: gradients of its outputs with respect to its inputs.

    S[k, face, channel] = mean over events of Σ_(sensors of the face) |∂ y_k / ∂ x_(sensor, channel)|

x are the normalised counts and times, so channels and faces can be compared; y_k is a component of a
prediction in its physical unit.

Dimensions: B events, S sensors (4760), F faces.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from megii_xec.data.stream import PhotonStream
from megii_xec.data.targets import TARGETS
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.models.readout import decode
from megii_xec.physics.geometry import FACES, sensor_face


def saliency(
    model: PhotonReconstruction, stream: PhotonStream, device: torch.device, *, num_events: int = 64
) -> dict[str, NDArray[np.float64]]:
    """Measure the gradients on the first events of a stream.

    Args:
        model: The reconstruction, on the device, in evaluation mode.
        stream: Raw events.
        device: Where to compute.
        num_events: Events to average over.

    Returns:
        For each component, shape (F, 2): faces in the order of `FACES`, npho and time.
    """
    faces = torch.from_numpy(sensor_face().astype(np.int64)).to(device)
    sums: dict[str, NDArray[np.float64]] = {}
    done = 0
    for batch in stream.batches():
        raw = batch.sensors[: num_events - done].to(device)
        if not len(raw):
            break
        x = model.normalization.apply_torch(raw[..., 0], raw[..., 1]).detach().requires_grad_()
        outputs = model.network(x)
        for target in model.targets:
            if target == "n_gamma":
                continue
            value, _ = decode(model.scaling, target, model.losses[target], outputs[target])
            for k, component in enumerate(TARGETS[target].components):
                (gradient,) = torch.autograd.grad(value[:, k].sum(), x, retain_graph=True)
                by_sensor = gradient.abs().sum(0).double()
                by_face = torch.zeros(len(FACES), 2, dtype=torch.float64, device=device)
                by_face.index_add_(0, faces, by_sensor)
                sums[component] = sums.get(component, 0.0) + by_face.cpu().numpy()
        done += len(raw)
    return {component: total / max(done, 1) for component, total in sums.items()}

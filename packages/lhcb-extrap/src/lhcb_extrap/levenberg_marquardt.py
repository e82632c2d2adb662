r"""Levenberg-Marquardt for small networks: Gauss-Newton steps with damping, from per-track derivatives.

With the residuals r_n of track n (4 components), their Jacobians J_n by all P weights and the robust
weights omega of the pseudo-Huber loss, one step solves

    (G + mu diag G) step = -g,    G = mean of J^T omega J,  g = mean of J^T omega r.

A step that lowers the loss is taken and mu falls by max(1/3, 1 - (2 rho - 1)^3), rho the gain over the one
the quadratic model promised; otherwise mu grows by 2, 4, 8 ... and the same equations are solved again. Small
networks fit smooth functions orders of magnitude better this way than with first-order methods, because the
loss has narrow curved valleys in which a gradient step is tiny; the price is P^2 numbers of memory.

References:
    K. Madsen, H. B. Nielsen, O. Tingleff, Methods for non-linear least squares problems, 2nd ed. (2004),
    section 3.2. Levenberg-Marquardt for shallow physics-informed networks: arXiv:2602.08515.

Dimension legend: N tracks, B tracks of a chunk, P weights.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lhcb_extrap.losses import pseudo_huber, weighted_difference

_SMALLEST = 1.0e-12  # of the largest diagonal element: a weight without influence must not make G singular
_DAMPING_RANGE = (1.0e-12, 1.0e8)


class LeastSquares(Protocol):
    """A loss with its quadratic model."""

    def loss(self, weights: Tensor) -> float:
        """Loss at `weights` (P,)."""
        ...

    def normal_equations(self, weights: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss, g (P,) and G (P, P) at `weights` (P,)."""
        ...


class LayeredNetwork(Protocol):
    """A network that is dense layers between two functions without weights."""

    layers: nn.Sequential

    def encode(self, tracks: Tensor) -> tuple[Tensor, Any]:
        """Inputs of the first layer, and what `decode` needs besides."""
        ...

    def decode(self, outputs: Tensor, context: Any) -> Tensor:
        """Ends from the outputs of the last layer."""
        ...


@dataclass(frozen=True)
class StepInfo:
    """What became of one step.

    Attributes:
        before: Loss before.
        after: Loss after; the same where no damping helped.
        damping: mu for the next step.
        trials: Equations solved.
    """

    before: float
    after: float
    damping: float
    trials: int


class LevenbergMarquardt:
    """Weights and damping.

    Args:
        weights: Start, (P,) float64.
        damping: First mu.
        max_trials: Dampings tried in one step.
    """

    def __init__(self, weights: Tensor, *, damping: float = 1e-3, max_trials: int = 8) -> None:
        self.weights, self.damping, self._max_trials = weights.clone(), damping, max_trials

    def step(self, problem: LeastSquares) -> StepInfo:
        """Take one step.

        Args:
            problem: The loss; may be another sample of tracks in every step.

        Returns:
            Losses on this problem, and the damping.
        """
        before, gradient, gram = problem.normal_equations(self.weights)
        diagonal = gram.diagonal()
        diagonal = diagonal.clamp_min(_SMALLEST * float(diagonal.max()))
        growth, after, trials = 2.0, before, 0
        low, high = _DAMPING_RANGE
        while trials < self._max_trials:
            trials += 1
            factor, failed = torch.linalg.cholesky_ex(gram + torch.diag(self.damping * diagonal))
            if not failed:
                step = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
                expected = -float(step @ gradient) - 0.5 * float(step @ (gram @ step))
                found = problem.loss(self.weights + step)
                if found < before:
                    self.weights = self.weights + step
                    rho = (before - found) / max(expected, 1e-300)
                    self.damping = max(low, self.damping * max(1 / 3, 1 - (2 * min(rho, 1.5) - 1) ** 3))
                    after = found
                    break
            self.damping = min(high, self.damping * growth)
            growth *= 2
        return StepInfo(before, after, self.damping, trials)

    def state_dict(self) -> dict[str, Any]:
        """Return weights and damping."""
        return {"weights": self.weights, "damping": self.damping}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, bit by bit."""
        self.weights, self.damping = state["weights"].to(self.weights.device), state["damping"]


class TrackFit:
    """Pseudo-Huber loss of a network on some tracks, in double precision.

    Args:
        network: The network, already in double precision; its own weights are not used.
        tracks: x, y, tx, ty, q/p, dz, z0, (N, 7) float64, mm, 1, 1/MeV.
        truth: x, y, tx, ty at the end, (N, 4) float64, mm, 1.
        delta_mm: Where the loss turns from square to linear.
        slope_arm_mm: Length that turns a slope error into one of position.
        chunk_tracks: Tracks whose Jacobians are in memory at once, 32 P bytes each.
    """

    def __init__(
        self,
        network: nn.Module,
        tracks: Tensor,
        truth: Tensor,
        *,
        delta_mm: float,
        slope_arm_mm: float,
        chunk_tracks: int,
    ) -> None:
        self._network, self._tracks, self._truth = network, tracks, truth
        self._delta_mm, self._slope_arm_mm, self._chunk = delta_mm, slope_arm_mm, chunk_tracks

    def _residual(self, weights: Tensor, tracks: Tensor, truth: Tensor) -> Tensor:
        end = functional_call(self._network, unflatten(self._network, weights), (tracks,))
        return weighted_difference(end, truth, self._slope_arm_mm)

    def loss(self, weights: Tensor) -> float:
        """Loss at `weights` (P,), mm^2."""
        total = 0.0
        with torch.no_grad():
            for tracks, truth in self._chunks(16 * self._chunk):
                difference = self._residual(weights, tracks, truth)
                total += float(pseudo_huber(difference, self._delta_mm)) * len(tracks)
        return total / len(self._tracks)

    def normal_equations(self, weights: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss (mm^2), g (P,) and G (P, P) at `weights` (P,)."""

        def one(weights: Tensor, track: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
            residual = self._residual(weights, track[None], truth[None])[0]
            return residual, residual

        derivatives = vmap(jacrev(one, has_aux=True), in_dims=(None, 0, 0))
        num = weights.numel()
        gradient, gram, total = weights.new_zeros(num), weights.new_zeros(num, num), 0.0
        for tracks, truth in self._chunks(self._chunk):
            jacobian, residual = derivatives(weights, tracks, truth)
            total += float(pseudo_huber(residual, self._delta_mm)) * len(tracks)
            # Twice the loss is quadratic in r with weight 1/sqrt(1 + (r/delta)^2): iterated reweighting.
            root = torch.rsqrt(1.0 + (residual / self._delta_mm).square()).sqrt()
            rows = (jacobian * root[..., None]).reshape(-1, num)
            add_gram(gram, rows)
            gradient.addmv_(rows.T, (residual * root).reshape(-1))
        gram = torch.tril(gram) + torch.tril(gram, -1).T
        return total / len(self._tracks), gradient / len(self._tracks), gram / len(self._tracks)

    def _chunks(self, size: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(torch.split(self._tracks, size), torch.split(self._truth, size), strict=True))


class LayeredFit:
    """The loss of `TrackFit` for a network of dense layers, with G from outer products.

    With h_l the input of layer l (a one appended for the bias) and d_lk the derivative of residual k by the
    output of layer l, a row of the Jacobian is the Kronecker product of d_lk and h_l, so that

        G_lm = mean of (sum over k of d_lk d_mk^T) (x) (h_l h_m^T),

    a product of two matrices with a row per track. It needs the products of pairs of neurons, not of pairs of
    weights: for two layers of 32, a tenth of the multiplications.

    Args:
        network: A network with `encode`, `layers` and `decode`, already in double precision; its own weights
            are not used.
        tracks: x, y, tx, ty, q/p, dz, z0, (N, 7) float64, mm, 1, 1/MeV.
        truth: x, y, tx, ty at the end, (N, 4) float64, mm, 1.
        delta_mm: Where the loss turns from square to linear.
        slope_arm_mm: Length that turns a slope error into one of position.
        chunk_tracks: Tracks treated at once.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        tracks: Tensor,
        truth: Tensor,
        *,
        delta_mm: float,
        slope_arm_mm: float,
        chunk_tracks: int,
    ) -> None:
        self._network, self._num_tracks = network, len(tracks)
        self._delta_mm, self._slope_arm_mm = delta_mm, slope_arm_mm
        self._linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        self._activations = [layer for layer in network.layers if not isinstance(layer, nn.Linear)]
        self._chunks: list[tuple[Tensor, Any, Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(tracks), chunk_tracks):
                rows = slice(start, start + chunk_tracks)
                self._chunks.append((*network.encode(tracks[rows]), truth[rows]))

    def loss(self, weights: Tensor) -> float:
        """Loss at `weights` (P,), mm^2."""
        total = 0.0
        with torch.no_grad():
            layers = self._cut(weights)
            for inputs, context, truth in self._chunks:
                values = inputs
                for number, (matrix, bias) in enumerate(layers):
                    values = torch.addmm(bias, values, matrix.T)
                    if number < len(self._activations):
                        values = self._activations[number](values)
                difference = self._difference(values, context, truth)
                total += float(pseudo_huber(difference, self._delta_mm)) * len(truth)
        return total / self._num_tracks

    def normal_equations(self, weights: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss (mm^2), g (P,) and G (P, P) at `weights` (P,)."""
        layers = self._cut(weights)
        pairs = [(i, j) for i in range(len(layers)) for j in range(i + 1)]
        grams: dict[tuple[int, int], Tensor] = {}
        gradients = [weights.new_zeros(m.shape[0], m.shape[1] + 1) for m, _ in layers]
        total = 0.0
        for inputs, context, truth in self._chunks:
            found, residual, values, deltas = self._derivatives(layers, inputs, context, truth)
            total += found * len(truth)
            for gradient, value, delta in zip(gradients, values, deltas, strict=True):
                gradient.addmm_((delta * residual[..., None]).sum(1).T, value)
            for i, j in pairs:
                outer_delta, outer_value = _outer(deltas[i], deltas[j]), _outer(values[i], values[j])
                if i == j:  # symmetric: the lower triangles say everything
                    outer_delta, outer_value = _lower(outer_delta), _lower(outer_value)
                product = outer_delta.flatten(1).T @ outer_value.flatten(1)
                grams[i, j] = product if (i, j) not in grams else grams[i, j].add_(product)
        gram = self._assemble(grams, [(m.shape[0], m.shape[1] + 1) for m, _ in layers], weights)
        flat = torch.cat([part for g in gradients for part in (g[:, :-1].flatten(), g[:, -1])])
        return total / self._num_tracks, flat / self._num_tracks, gram / self._num_tracks

    def _cut(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Matrix and bias of every layer."""
        found, start = [], 0
        for layer in self._linear:
            rows, columns = layer.weight.shape
            middle, end = start + rows * columns, start + rows * (columns + 1)
            found.append((weights[start:middle].view(rows, columns), weights[middle:end]))
            start = end
        return found

    def _difference(self, outputs: Tensor, context: Any, truth: Tensor) -> Tensor:
        return weighted_difference(self._network.decode(outputs, context), truth, self._slope_arm_mm)

    def _derivatives(
        self, layers: list[tuple[Tensor, Tensor]], inputs: Tensor, context: Any, truth: Tensor
    ) -> tuple[float, Tensor, list[Tensor], list[Tensor]]:
        """Loss, residuals (B, K), inputs (B, in + 1) and derivatives (B, K, out) of each layer."""
        ones = torch.ones_like(inputs[:, :1])
        values, slopes = [], []
        for number, (matrix, bias) in enumerate(layers):
            values.append(torch.cat([inputs, ones], dim=1))
            outputs = torch.addmm(bias, inputs, matrix.T).detach().requires_grad_()
            if number < len(self._activations):
                inputs = self._activations[number](outputs)
                slopes.append(torch.autograd.grad(inputs.sum(), outputs)[0])
                inputs = inputs.detach()
        residual = self._difference(outputs, context, truth)
        columns = [
            torch.autograd.grad(column.sum(), outputs, retain_graph=True)[0] for column in residual.unbind(1)
        ]
        residual = residual.detach()
        loss = float(pseudo_huber(residual, self._delta_mm))
        # Twice the loss is quadratic in r with weight 1/sqrt(1 + (r/delta)^2): iterated reweighting.
        root = torch.rsqrt(1.0 + (residual / self._delta_mm).square()).sqrt()
        delta = torch.stack(columns, dim=1) * root[..., None]
        deltas = [delta]
        for (matrix, _), slope in zip(layers[:0:-1], slopes[::-1], strict=True):
            delta = (delta @ matrix) * slope[:, None]
            deltas.insert(0, delta)
        return loss, residual * root, values, deltas

    @staticmethod
    def _assemble(
        grams: dict[tuple[int, int], Tensor], shapes: list[tuple[int, int]], weights: Tensor
    ) -> Tensor:
        """Put the blocks (out out', in in') of pairs of layers into G, in the order of `flatten`."""
        places, start = [], 0
        for rows, columns in shapes:  # where weight (o, i) and bias (o, last) of a layer are
            numbers = torch.arange(start, start + rows * columns, device=weights.device)
            split = rows * (columns - 1)
            places.append(torch.cat([numbers[:split].view(rows, -1), numbers[split:, None]], dim=1).flatten())
            start += rows * columns
        gram = weights.new_zeros(start, start)
        for (i, j), block in grams.items():
            (rows, columns), (other_rows, other_columns) = shapes[i], shapes[j]
            if i == j:
                block = block[_triangle(rows, block)][:, _triangle(columns, block)]
            block = block.view(rows, other_rows, columns, other_columns).transpose(1, 2)
            block = block.reshape(rows * columns, other_rows * other_columns)
            gram[places[i][:, None], places[j]] = block
            gram[places[j][:, None], places[i]] = block.T
        return gram


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Outer products of rows (B, i) and (B, j), or their sum over K of (B, K, i) and (B, K, j): (B, i, j)."""
    return a[:, :, None] * b[:, None, :] if a.dim() == 2 else a.transpose(1, 2) @ b


def _lower(a: Tensor) -> Tensor:
    """Lower triangles of (B, n, n), (B, n (n + 1) / 2)."""
    i, j = torch.tril_indices(a.shape[1], a.shape[1], device=a.device)
    return a[:, i, j]


def _triangle(size: int, like: Tensor) -> Tensor:
    """Where element (i, j) of a symmetric matrix is in its lower triangle, (size^2,)."""
    i, j = torch.tril_indices(size, size, device=like.device)
    places = torch.empty(size, size, dtype=torch.long, device=like.device)
    places[i, j] = places[j, i] = torch.arange(len(i), device=like.device)
    return places.flatten()


def add_gram(gram: Tensor, rows: Tensor, num_blocks: int = 4) -> None:
    """Add the lower blocks of rows^T rows, five eighths of the work of the whole product.

    Args:
        gram: Sum so far, (P, P); blocks above the diagonal are left alone.
        rows: (R, P).
        num_blocks: Blocks a side.
    """
    edges = [round(i * rows.shape[1] / num_blocks) for i in range(num_blocks + 1)]
    for low, high in pairwise(edges):
        gram[low:high, :high].addmm_(rows[:, low:high].T, rows[:, :high])


def flatten(network: nn.Module) -> Tensor:
    """All weights of a network in one vector, (P,) float64."""
    return torch.cat([parameter.detach().double().reshape(-1) for parameter in network.parameters()])


def unflatten(network: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    """Cut a vector (P,) into the weights of a network, by name."""
    found, start = {}, 0
    for name, parameter in network.named_parameters():
        found[name] = weights[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return found

r"""A codebook: its exponential average, k-means initialisation, revival of dead codes.

    k(z) = argmin_k |z - e_k|²,       ties to the lowest index (`hep_shared.ops.nearest`),
    N_k ← γ N_k + (1 - γ) n_k,    m_k ← γ m_k + (1 - γ) Σ_{k(z) = k} z,    e_k = m_k / N_k,

with n_k the number of vectors of the batch whose nearest code is k (A. van den Oord et al., arXiv:1711.00937,
appendix A.1). A code whose N_k falls below a small share of the average is put onto a random vector of the
batch, since the average alone would never use it again. k-means starts from k-means++ (D. Arthur and S.
Vassilvitskii, SODA 2007).

N vectors, K codes, D dimensions.
"""

import torch
from torch import Tensor, nn

from hep_shared.ops.nearest import nearest_code


def sums_by_code(vectors: Tensor, nearest: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Count and add the vectors of each code.

    Args:
        vectors: (N, D).
        nearest: Index of the code of each vector, (N,).
        num_codes: Number of codes K.

    Returns:
        Counts (K,) and sums (K, D).
    """
    counts = vectors.new_zeros(num_codes).index_add_(0, nearest, vectors.new_ones(len(vectors)))
    sums = vectors.new_zeros(num_codes, vectors.shape[1]).index_add_(0, nearest, vectors)
    return counts, sums


def k_means(vectors: Tensor, num_codes: int, *, num_iterations: int = 10) -> Tensor:
    """Cluster vectors; random numbers are those of torch.

    Args:
        vectors: (N, D).
        num_codes: Number of clusters K; N may be smaller, codes then repeat.
        num_iterations: Lloyd's iterations.

    Returns:
        Centres, (K, D).
    """
    chosen = [int(torch.randint(len(vectors), ()))]
    distance = (vectors - vectors[chosen[0]]).square().sum(1)
    for _ in range(num_codes - 1):
        total = float(distance.sum())
        pick = torch.multinomial(distance, 1) if total > 0 else torch.randint(len(vectors), (1,))
        chosen.append(int(pick))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(1))
    centres = vectors[chosen].clone()
    for _ in range(num_iterations):
        counts, sums = sums_by_code(vectors, nearest_code(vectors, centres), num_codes)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


class Codebook(nn.Module):
    """Codes that follow the vectors they stand for.

    Args:
        num_codes: Number of codes K.
        dim: Dimension D.
        decay: γ of the averages.
        dead_below: A code is dead when its N_k is below this share of the average.
    """

    codes: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(self, num_codes: int, dim: int, *, decay: float = 0.99, dead_below: float = 0.1) -> None:
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        codes = torch.randn(num_codes, dim)
        self.register_buffer("codes", codes)
        self.register_buffer("sizes", torch.ones(num_codes))
        self.register_buffer("sums", codes.clone())

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Put the codes onto clusters of vectors.

        Args:
            vectors: (N, D), no padding.
        """
        num_codes = len(self.codes)
        self.codes.copy_(k_means(vectors, num_codes))
        counts, _ = sums_by_code(vectors, nearest_code(vectors, self.codes), num_codes)
        # Of order one, so that the first batches outweigh the start and unused codes are soon found out.
        self.sizes.copy_((counts / counts.mean()).clamp(min=0.1))
        self.sums.copy_(self.codes * self.sizes[:, None])

    @torch.no_grad()
    def update(self, vectors: Tensor, nearest: Tensor) -> None:
        """Follow one batch, and revive dead codes.

        Args:
            vectors: (N, D), no padding.
            nearest: Their codes, (N,).
        """
        counts, sums = sums_by_code(vectors, nearest, len(self.codes))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        self.sizes.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        average = self.sizes.mean()
        dead = self.sizes < self.dead_below * average
        if len(vectors):
            # Every code draws, so that the sequence of random numbers does not depend on how many are dead.
            drawn = torch.randint(len(vectors), (len(self.codes),), device=vectors.device)
            # Light, so that what it attracts moves it at once, and it dies again soon if that is nothing.
            weight = 2 * self.dead_below * average
            self.sums.copy_(torch.where(dead[:, None], vectors[drawn] * weight, self.sums))
            self.sizes.copy_(torch.where(dead, weight, self.sizes))
        self.codes.copy_(self.sums / self.sizes[:, None])

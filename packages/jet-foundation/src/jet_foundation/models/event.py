r"""Classifier of whole events: a jet encoder below, particle attention over the objects of an event above.

    particles of a jet → encoder → mean → jet token ┐
    lepton                                → token   ├ L × particle attention with pairwise bias → class token
    missing momentum                      → token   ┘

Objects attend to each other as particles do in a jet, with the same pair features of their four-vectors
(missing momentum counts as massless at η = 0). Objects carry ln pT, η, mass, charge and kind, but no φ, so
the output changes neither when the event is turned about the beam nor with the order of jets or leptons.

Dimensions: B events, J jets, N particles of a jet, S objects, F features, D numbers of an object, C channels.
"""

import torch
from torch import Tensor, nn

from hep_shared.ops.linear import Linear
from jet_foundation.models.attention import ClassAttention, ParticleAttentionBlock
from jet_foundation.models.encoder import JetEncoder
from jet_foundation.models.packing import Packing
from jet_foundation.models.pair_bias import PairBias


class EventClassifier(nn.Module):
    """Scores of the classes of events.

    Args:
        encoder: Encoder of jets, frozen or not.
        num_classes: Number of classes.
        num_numbers: Numbers D of an object.
        num_heads: Attention heads.
        num_layers: Layers over the objects.
        num_class_layers: Layers of the class attention.
        pair_dims: Hidden widths of the pair network.
        read_particles: Whether a jet token holds what the encoder says of the jet's particles.
    """

    def __init__(
        self,
        encoder: JetEncoder,
        num_classes: int,
        *,
        num_numbers: int,
        num_heads: int,
        num_layers: int,
        num_class_layers: int,
        pair_dims: tuple[int, ...],
        read_particles: bool = True,
    ) -> None:
        super().__init__()
        dim = encoder.dim
        self.encoder = encoder
        self.read_particles = read_particles
        if not read_particles:
            encoder.requires_grad_(False)
        self.embed_jet = nn.Sequential(nn.LayerNorm(dim), Linear(dim, dim)) if read_particles else None
        self.embed_object = nn.Sequential(Linear(num_numbers, dim), nn.GELU(), Linear(dim, dim))
        self.pair_bias = PairBias(num_heads, dims=pair_dims, norm="none")
        self.blocks = nn.ModuleList(ParticleAttentionBlock(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.class_attention = ClassAttention(dim, num_heads, num_layers=num_class_layers)
        self.head = nn.Linear(dim, num_classes)

    def jet_embeddings(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Encode the jets of events, each jet by itself.

        Args:
            p4: Particles (E, px, py, pz), (B, J, N, 4) GeV.
            features: Normalised features, (B, J, N, F).
            valid_mask: True where a particle is real, (B, J, N).

        Returns:
            Mean token of each jet, (B, J, C); zero where there is no jet.
        """
        real = valid_mask.any(dim=-1)
        mask = valid_mask[real]
        tokens = self.encoder.tokens(p4[real], features[real], mask)
        means = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        empty = means.new_zeros(*real.shape, means.shape[-1])
        return empty.masked_scatter(real[..., None], means)

    def forward(
        self,
        p4: Tensor,
        features: Tensor,
        valid_mask: Tensor,
        object_p4: Tensor,
        objects: Tensor,
        object_mask: Tensor,
    ) -> Tensor:
        """Classify events.

        Args:
            p4: Particles (E, px, py, pz), (B, J, N, 4) GeV.
            features: Normalised features, (B, J, N, F).
            valid_mask: True where a particle is real, (B, J, N).
            object_p4: Four-vectors of the jets, then of the other objects, (B, S, 4) GeV.
            objects: Numbers of the objects, (B, S, D).
            object_mask: True where an object is real, (B, S).

        Returns:
            Logits, (B, num_classes).
        """
        tokens = self.embed_object(objects)
        if self.embed_jet is not None:
            embedded = self.embed_jet(self.jet_embeddings(p4, features, valid_mask))
            others = tokens.shape[1] - embedded.shape[1]
            tokens = tokens + torch.cat(
                [embedded, embedded.new_zeros(len(tokens), others, embedded.shape[2])], 1
            )
        packing = Packing(object_mask)
        bias = self.pair_bias(object_p4, object_mask, packing=packing)
        x = packing.pack(tokens)
        for block in self.blocks:
            x = block(x, packing, bias)
        tokens = packing.unpack(self.norm(x)) * object_mask[..., None]
        logits: Tensor = self.head(self.class_attention(tokens, object_mask))
        return logits

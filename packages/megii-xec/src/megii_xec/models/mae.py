r"""Masked autoencoder: the encoder sees some of the sensors, a decoder for every face guesses all of them.

    rectangular  token → Linear → 2d x 4 x 4 → ConvT (8 x 8) → ConvT (16 x 16) → ConvT (2) → bilinear
    hexagonal    token → Linear → every node, + learned position → 2 HexNeXt blocks → LayerNorm → Linear (2)

The outer face is guessed as the image that the encoder looks at. A cell of it counts as hidden where none of
its live tubes is visible, so that no cell is scored whose content is partly known.

Dimensions: B events, S sensors (4760), T tokens of a face, C channels, H W grid, N nodes (73), P places.

References:
    He et al., Masked autoencoders are scalable vision learners, arXiv:2111.06377.
    Woo et al., ConvNeXt V2, arXiv:2301.00808: masked convolutions.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megii_xec.models.convnext import TOKEN_GRID
from megii_xec.models.encoder import XecEncoder
from megii_xec.models.grn import LAYER_NORM_EPS
from megii_xec.models.hexnext import HexNeXtBlock
from megii_xec.physics.geometry import FACE_SLICES, NUM_HEX, NUM_SENSORS, Layout

HEX_FACES = ("top", "bottom")


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image.

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, shape (B, C, H, W) to the same."""
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class FaceDecoder(nn.Module):
    """Decoder of a rectangular face.

    Args:
        in_features: Length of the face's tokens together.
        shape: Rows and columns of the face.
        channels: Channels d in the middle; the first image has 2 d, the last 2.
    """

    def __init__(self, in_features: int, shape: tuple[int, int], *, channels: int = 128) -> None:
        super().__init__()
        self.shape = shape
        self.start = nn.Linear(in_features, 2 * channels * TOKEN_GRID**2)
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            ChannelNorm(channels),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
            ChannelNorm(channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, 2, 3, padding=1),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Guess the face.

        Args:
            tokens: Tokens of the face, shape (B, T, dim).

        Returns:
            Normalised counts and times, shape (B, 2, H, W).
        """
        image = torch.unflatten(self.start(tokens.flatten(1)), 1, (-1, TOKEN_GRID, TOKEN_GRID))
        return F.interpolate(self.layers(image), self.shape, mode="bilinear", align_corners=False)


class GraphFaceDecoder(nn.Module):
    """Decoder of a hexagonal face.

    Args:
        in_features: Length of the face's tokens together.
        hex_dim: Channels of the nodes.
        depth: Number of HexNeXt blocks.
        layout: See `HexDepthwiseConv`.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        in_features: int,
        *,
        hex_dim: int = 96,
        depth: int = 2,
        layout: Layout = "corrected",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.start = nn.Linear(in_features, hex_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, NUM_HEX, hex_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            HexNeXtBlock(hex_dim, layout=layout, recompute=recompute) for _ in range(depth)
        )
        self.out = nn.Sequential(nn.LayerNorm(hex_dim, eps=LAYER_NORM_EPS), nn.Linear(hex_dim, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Guess the face.

        Args:
            tokens: Tokens of the face, shape (B, T, dim).

        Returns:
            Normalised counts and times, shape (B, 2, 73).
        """
        x = self.start(tokens.flatten(1))[:, None] + self.pos_embed
        for block in self.blocks:
            x = block(x)
        nodes: Tensor = self.out(x)
        return nodes.transpose(1, 2)


class MaskedAutoencoder(nn.Module):
    """Encoder and one decoder for each face.

    Args:
        encoder: Encoder of the event.
        decoder_channels: See `FaceDecoder`.
        hex_dim: Channels of the hexagonal decoders.
        layout: See `HexDepthwiseConv`.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        encoder: XecEncoder,
        *,
        decoder_channels: int = 128,
        hex_dim: int = 96,
        layout: Layout = "corrected",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        shapes = encoder.face_shapes
        self.decoders = nn.ModuleDict()
        for face, tokens in encoder.tokens_of_face.items():
            length = len(tokens) * encoder.dim
            if face in HEX_FACES:
                self.decoders[face] = GraphFaceDecoder(
                    length, hex_dim=hex_dim, layout=layout, recompute=recompute
                )
            else:
                self.decoders[face] = FaceDecoder(length, shapes[face], channels=decoder_channels)

    @property
    def faces(self) -> tuple[str, ...]:
        """Names of the faces in the order of the outputs."""
        return tuple(self.decoders)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Guess all faces.

        Args:
            x: Normalised npho and time of every sensor, shape (B, 4760, 2).
            mask: True where a sensor is hidden from the encoder, shape (B, 4760).

        Returns:
            Normalised counts and times of each face, shape (B, 2, H, W) or (B, 2, 73).
        """
        tokens = self.encoder(x, mask)
        places = self.encoder.tokens_of_face
        return {face: decoder(tokens[:, places[face]]) for face, decoder in self.decoders.items()}


def face_places(
    encoder: XecEncoder, x: Tensor, mask: Tensor, valid: Callable[[Tensor], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Arrange sensors as the decoders' outputs.

    Args:
        encoder: Encoder, which knows the faces.
        x: Normalised npho and time of every sensor, nothing hidden, shape (B, 4760, 2).
        mask: True where a sensor is hidden, shape (B, 4760).
        valid: Tells which normalised values are measurements, (..., 2) to (...).

    Returns:
        For each face what is to be guessed, shape (B, 2, P), and which places of it are hidden and have a
        measurement, shape (B, P).
    """
    places: dict[str, tuple[Tensor, Tensor]] = {}
    for face in encoder.tokens_of_face:
        if face == "outer":
            visible = (~mask & valid(x)).to(x.dtype)[..., None]
            image, seen = encoder.outer(x, visible)
            assert seen is not None
            values, hidden = image.flatten(1, 2), seen.flatten(1) == 0
        else:
            if face == "center":
                cut, hidden = x[:, encoder.center_ids], mask[:, encoder.center_ids]
            else:
                part = FACE_SLICES[face][0]  # type: ignore[index]
                cut, hidden = x[:, part], mask[:, part]
            values = cut
        places[face] = (values.transpose(1, 2), hidden & valid(values))
    return places


def sensors_of_places(encoder: XecEncoder, faces: Mapping[str, Tensor]) -> Tensor:
    """Read the decoders' outputs at the sensors.

    On the outer face a tube takes the mean of the cells it covers; where the image holds counts per pixel,
    they are multiplied by the tube's area again.

    Args:
        encoder: Encoder, which knows the faces.
        faces: Outputs of the decoders, shape (B, 2, H, W) or (B, 2, 73).

    Returns:
        Normalised counts and times of all sensors, shape (B, 4760, 2).
    """
    first = next(iter(faces.values()))
    sensors = torch.zeros(len(first), NUM_SENSORS, 2, device=first.device)
    for face, values in faces.items():
        flat = values.float().flatten(2).transpose(1, 2)
        if face == "outer":
            sensors[:, encoder.outer.ids] = encoder.outer.at_sensors(flat)
        elif face == "center":
            sensors[:, encoder.center_ids] = flat
        else:
            sensors[:, FACE_SLICES[face][0]] = flat  # type: ignore[index]
    return sensors

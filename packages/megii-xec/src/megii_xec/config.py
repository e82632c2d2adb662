"""`Config`: everything a run can be told, section by section, with units in the names.

A component that has constants of its own owns its section (`Normalization`, `TargetScaling`,
`SimulationConfig`); this module puts the sections together and holds the rules that concern several of them.
Below `tasks/` nobody sees the whole configuration.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from megii_xec.data.normalization import Normalization
from megii_xec.data.selection import Selection
from megii_xec.data.targets import TargetScaling
from megii_xec.physics.parameters import SimulationConfig

PRESETS = "megii_xec.presets"

LossName = Literal[
    "smooth_l1", "l1", "mse", "huber", "relative_smooth_l1", "relative_l1", "relative_mse",
    "angular", "cosine",
]  # fmt: skip


class SimulatedData(StrictModel):
    """A data set that is simulated when no files are given: 70 % training, 10 % validation, 20 % test."""

    num_events: int = Field(6000, ge=20, multiple_of=20, description="Events of all three parts together.")
    num_workers: int = Field(2, ge=0, description="Simulating processes.")
    seed: int = Field(1, ge=0, description="Seed of the simulation.")


class DataConfig(StrictModel):
    """Where the events come from and how they are read."""

    train: tuple[str, ...] = Field((), description="ROOT files or globs to train on.")
    validation: tuple[str, ...] = Field((), description="ROOT files or globs that choose the best epoch.")
    test: tuple[str, ...] = Field((), description="ROOT files or globs that nothing is chosen on.")
    simulated: SimulatedData | None = Field(None, description="Simulate a data set when `train` is empty.")
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Last part of every training file to validate on when `validation` is empty.",
    )
    normalization: Normalization = Field(
        Normalization(), description="What the network sees of counts and times."
    )
    batch_size: int = Field(256, ge=1, description="Events in one optimiser step, over all processes.")
    chunk_events: int = Field(1024, ge=1, description="Consecutive events read at once.")
    mixed_chunks: int = Field(
        8, ge=1, description="Chunks that a shuffled batch draws from; all are in memory."
    )
    num_threads: int = Field(2, ge=1, description="Threads that decompress and normalise.")
    selection: Selection | None = Field(None, description="Which events are used; null for all.")


class ModelConfig(StrictModel):
    """The network: an encoder with one token a face, and one head a target."""

    kind: Literal["xec"] = "xec"
    dim: int = Field(1024, ge=8, description="Length of a token.")
    conv_channels: int | None = Field(
        None, ge=1, description="Channels of the first stage; null is dim / 32."
    )
    conv_depths: tuple[int, ...] = Field((2, 3), description="Blocks of each convolution stage.")
    stem_stride: int = Field(
        1, ge=1, le=4, description="Stride of the stem; 2 saves 3/4 of the convolution work."
    )
    hex_dim: int = Field(96, ge=1, description="Channels on the hexagonal faces.")
    hex_depth: int = Field(4, ge=1, description="Blocks on the hexagonal faces.")
    num_heads: int = Field(8, ge=1, description="Attention heads of the fusion.")
    ffn_dim: int | None = Field(None, ge=1, description="Hidden width of the fusion; null is 4 dim.")
    fusion_layers: int = Field(2, ge=1, description="Layers of the fusion.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the fusion.")
    drop_path: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a convolution branch.")
    start: Literal["zero", "conventional"] = Field(
        "zero", description="What the heads correct: nothing, or the conventional reconstruction."
    )
    head_dim: int = Field(256, ge=1, description="Hidden width of the heads.")
    head_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout of the heads.")
    outer_mode: Literal["finegrid", "split"] = Field(
        "finegrid", description="Outer face as one image, or as two."
    )
    outer_pool: tuple[int, int] | None = Field(
        (3, 3), description="Pixels averaged on the outer face; null for none."
    )
    layout: Literal["corrected", "legacy"] = Field(
        "corrected", description="`legacy`: the published sensor maps."
    )
    area_scaling: Literal["raw", "legacy"] = Field(
        "raw", description="Divide by area before, or after, normalising."
    )
    face_pool: Literal["average", "bilinear"] = Field("average", description="How a face becomes 4 x 4.")
    position: Literal["learned", "geometric"] = Field(
        "learned", description="Position encoding of the tokens."
    )
    recompute: bool = Field(
        True, description="Recompute wide activations in the backward pass: half the memory."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ConfigError(
                f"model.dim is {self.dim}, which {self.num_heads} model.num_heads do not divide."
            )
        if self.stem_stride > 2 and self.outer_mode == "split":
            raise ConfigError(
                f"model.stem_stride is {self.stem_stride}, too coarse for the outer face's 5 x 6 "
                "centre; use 1 or 2, or model.outer_mode finegrid."
            )
        if self.conv_channels is None and self.dim < 32:
            raise ConfigError(f"model.dim is {self.dim}; below 32 give model.conv_channels too.")
        return self


class TargetConfig(StrictModel):
    """One quantity to regress."""

    loss: LossName = Field("smooth_l1", description="Loss on the scaled target.")
    beta: float = Field(1.0, gt=0, description="Where smooth_l1 and huber turn from square to linear.")
    weight: float = Field(1.0, gt=0, description="Factor in the sum of the losses.")


class RegressionConfig(StrictModel):
    """Regress the photon; a target that is null is left out."""

    kind: Literal["regression"] = "regression"
    angle: TargetConfig | None = Field(TargetConfig(), description="Emission angles theta, phi.")
    energy: TargetConfig | None = Field(TargetConfig(), description="Photon energy.")
    timing: TargetConfig | None = Field(
        TargetConfig(), description="Photon time, relative to the first sensor."
    )
    uvwFI: TargetConfig | None = Field(  # noqa: N815  the field's name
        TargetConfig(), description="First interaction point u, v, w."
    )
    weighting: Literal["fixed", "learned"] = Field(
        "fixed", description="`learned`: one uncertainty a target."
    )
    scaling: TargetScaling = Field(TargetScaling(), description="Offset and scale of each target.")

    @property
    def targets(self) -> dict[str, TargetConfig]:
        """The chosen targets, in a fixed order."""
        named = {"angle": self.angle, "energy": self.energy, "timing": self.timing, "uvwFI": self.uvwFI}
        return {name: target for name, target in named.items() if target is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.targets:
            raise ConfigError("task has no target; set one of angle, energy, timing, uvwFI.")
        for name, target in self.targets.items():
            if target.loss in ("angular", "cosine") and name != "angle":
                raise ConfigError(
                    f"task.{name}.loss is '{target.loss}', which is for task.angle only; use smooth_l1."
                )
        return self


class OptimConfig(StrictModel):
    """The optimiser, AdamW, and its learning rate: linear warm-up, then a half cosine."""

    lr: float = Field(3e-4, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="Decoupled decay of matrices and kernels.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the steps that the warm-up takes.")
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="Last learning rate over the largest.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip the gradient norm here; null for no clipping."
    )
    lr_factors: dict[str, float] = Field(
        {}, description="Factor by parameter prefix, such as network.encoder: 0.1."
    )


class TrainConfig(StrictModel):
    """The loop."""

    epochs: int = Field(20, ge=1, description="Passes over the training data.")
    seed: int = Field(42, ge=0, description="Seed of weights, order and dropout.")
    accumulation_steps: int = Field(1, ge=1, description="Pieces a batch is cut into; more need less memory.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Arithmetic of the forward pass.")
    compile: bool = Field(False, description="Use torch.compile.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights, which are evaluated."
    )
    encoder_from: Path | None = Field(None, description="Run directory whose encoder weights to start from.")
    save_every_steps: int = Field(0, ge=0, description="Save inside an epoch too, this often; 0 for never.")
    keep_checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Keep these checkpoints for good."
    )
    finish: tuple[Literal["evaluate", "export"], ...] = Field(
        ("evaluate", "export"), description="What follows the last epoch."
    )
    track: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="Trackers besides the run directory."
    )


class Config(StrictModel):
    """The whole configuration."""

    simulation: SimulationConfig = SimulationConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: RegressionConfig = RegressionConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.batch_size % self.train.accumulation_steps:
            raise ConfigError(
                f"data.batch_size is {self.data.batch_size}, which train.accumulation_steps = "
                f"{self.train.accumulation_steps} does not divide; choose numbers that fit."
            )
        inputs = self.data.normalization
        if self.model.start == "conventional" and (inputs.npho_input, inputs.time_input) != (
            "npho",
            "relative_time",
        ):
            raise ConfigError(
                "model.start conventional needs data.normalization.npho_input npho and time_input "
                f"relative_time, not {inputs.npho_input} and {inputs.time_input}; set them, or model.start "
                "zero."
            )
        return self

"""`Config`: everything a run can be told, section by section, with units in the names.

A component that has constants of its own owns its section (`Normalization`, `TargetScaling`,
`SimulationConfig`); this module puts the sections together and holds the rules that concern several of them.
Below `tasks/` nobody sees the whole configuration.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from megii_xec.data.augmentation import Augmentation
from megii_xec.data.masking import DeadChannels, RandomDead
from megii_xec.data.normalization import Normalization
from megii_xec.data.reweighting import Curriculum
from megii_xec.data.selection import Selection
from megii_xec.data.targets import TARGETS, TargetScaling
from megii_xec.physics.geometry import Face
from megii_xec.physics.parameters import SimulationConfig

PRESETS = "megii_xec.presets"

LossName = Literal[
    "smooth_l1", "l1", "mse", "huber", "relative_smooth_l1", "relative_l1", "relative_mse",
    "angular", "cosine", "beta_nll", "quantile",
]  # fmt: skip
ReconstructionLossName = Literal["smooth_l1", "l1", "mse", "huber"]
DIRECTIONS = ("angle", "angleVec")


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
    position: Literal["learned", "geometric", "sinusoidal", "rotary", "face_type"] = Field(
        "learned", description="Position encoding of the tokens."
    )
    inner_tokens: tuple[int, int] = Field(
        (1, 1), description="Rows and columns of tokens on the inner face; (3, 2) gives six."
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
        if min(self.inner_tokens) < 1:
            raise ConfigError(
                f"model.inner_tokens is {self.inner_tokens}; use numbers from 1, such as [3, 2]."
            )
        if self.position == "rotary" and self.dim // self.num_heads % 2:
            raise ConfigError(
                f"model.position is rotary, which needs heads of even length, not model.dim / "
                f"model.num_heads = {self.dim // self.num_heads}; change one of them."
            )
        if self.conv_channels is None and self.dim < 32:
            raise ConfigError(f"model.dim is {self.dim}; below 32 give model.conv_channels too.")
        return self


class TargetConfig(StrictModel):
    """One quantity to regress."""

    loss: LossName = Field("smooth_l1", description="Loss on the scaled target.")
    beta: float = Field(
        1.0, gt=0, description="Where smooth_l1 and huber turn from square to linear; power of beta_nll."
    )
    weight: float = Field(1.0, gt=0, description="Factor in the sum of the losses.")
    reweight_bins: tuple[int, ...] | None = Field(
        None, description="Bins of each component to weigh rare events up with, such as [20, 20] for angle."
    )


class ClassConfig(StrictModel):
    """One number to classify."""

    loss: Literal["cross_entropy"] = "cross_entropy"
    beta: float = Field(1.0, gt=0, description="Not used by cross_entropy.")
    weight: float = Field(1.0, gt=0, description="Factor in the sum of the losses.")
    reweight_bins: tuple[int, ...] | None = Field(None, description="One number of bins, such as [5].")


AnyTarget = TargetConfig | ClassConfig


class TaskConfig(StrictModel):
    """What the tasks have in common."""

    @property
    def targets(self) -> dict[str, AnyTarget]:
        """Truth that the task needs, in a fixed order."""
        return {}


class RegressionConfig(TaskConfig):
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
    angleVec: TargetConfig | None = Field(  # noqa: N815  the field's name
        None, description="Emission direction as a vector."
    )
    n_gamma: ClassConfig | None = Field(None, description="Number of photons in the event, 0 to 4.")
    weighting: Literal["fixed", "learned"] = Field(
        "fixed", description="`learned`: one uncertainty a target."
    )
    scaling: TargetScaling = Field(TargetScaling(), description="Offset and scale of each target.")
    augmentation: Augmentation | None = Field(None, description="Random changes of the training events.")
    curriculum: Curriculum | None = Field(None, description="Begin with the easy events.")

    @property
    def targets(self) -> dict[str, AnyTarget]:
        """The chosen targets, in a fixed order."""
        named: dict[str, AnyTarget | None] = {
            "angle": self.angle, "energy": self.energy, "timing": self.timing, "uvwFI": self.uvwFI,
            "angleVec": self.angleVec, "n_gamma": self.n_gamma,
        }  # fmt: skip
        return {name: target for name, target in named.items() if target is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.targets:
            raise ConfigError(f"task has no target; set one of {', '.join(TARGETS)}.")
        for name, target in self.targets.items():
            if target.loss in ("angular", "cosine") and name not in DIRECTIONS:
                raise ConfigError(
                    f"task.{name}.loss is '{target.loss}', which is for {' and '.join(DIRECTIONS)} only; "
                    "use smooth_l1."
                )
            bins, size = target.reweight_bins, TARGETS[name].size
            if bins is not None and (len(bins) != size or min(bins) < 1):
                raise ConfigError(f"task.{name}.reweight_bins is {list(bins)}; give {size} positive numbers.")
        return self


class PretrainConfig(TaskConfig):
    """Guess hidden sensors from the others; needs no truth."""

    kind: Literal["pretrain"] = "pretrain"
    mask_ratio: float = Field(0.65, gt=0, lt=1, description="Share of the valid sensors that is hidden.")
    mask_ratio_by_face: dict[Face, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="Faces with a share of their own; 1 hides a whole face."
    )
    mask_preference: Literal["uniform", "log_flat"] = Field(
        "uniform", description="`log_flat`: hidden counts are flat in ln(npho)."
    )
    time_mask_ratio_scale: float = Field(
        1.0, gt=0, description="Above 1 sensors with a time are hidden rather."
    )
    loss: ReconstructionLossName = Field("smooth_l1", description="Loss on normalised values.")
    beta: float = Field(1.0, gt=0, description="Where smooth_l1 and huber turn from square to linear.")
    npho_weight: float = Field(1.0, ge=0, description="Factor of the counts' loss.")
    time_weight: float = Field(1.0, ge=0, description="Factor of the times' loss.")
    learn_channel_logvars: bool = Field(False, description="Learn one uncertainty for counts and times each.")
    npho_threshold: float | None = Field(
        None, ge=0, description="Smallest count whose time is scored; null for data.normalization's."
    )
    use_npho_time_weight: bool = Field(True, description="Weigh times by the square root of the count.")
    decoder_channels: int = Field(128, ge=2, multiple_of=2, description="Channels d of the decoders.")
    track_train_metrics: bool = Field(
        False, description="Report the metrics of every face for the training events too."
    )
    save_predictions_every: int = Field(
        0, ge=0, description="Epochs between ROOT files of guessed sensors while validating; 0 for none."
    )


class InpaintConfig(TaskConfig):
    """Fill in dead channels."""

    kind: Literal["inpaint"] = "inpaint"
    dead: DeadChannels = Field(RandomDead(), description="Which sensors are hidden, and scored.")
    freeze_encoder: bool = Field(False, description="Train the heads only; needs train.encoder_from.")
    loss: ReconstructionLossName = Field("smooth_l1", description="Loss on normalised values.")
    # Errors of normalised counts are ten times smaller than those of times, which are mostly noise.
    beta: float = Field(0.01, gt=0, description="Where smooth_l1 and huber turn from square to linear.")
    npho_weight: float = Field(10.0, ge=0, description="Factor of the counts' loss.")
    time_weight: float = Field(1.0, ge=0, description="Factor of the times' loss.")
    npho_threshold: float | None = Field(
        None, ge=0, description="Smallest count whose time is scored; null for data.normalization's."
    )
    use_npho_time_weight: bool = Field(True, description="Weigh times by the square root of the count.")
    face_channels: int = Field(64, ge=8, multiple_of=8, description="Channels of the rectangular heads.")
    hex_channels: int = Field(96, ge=8, multiple_of=8, description="Channels of the hexagonal heads.")
    track_train_metrics: bool = Field(
        False, description="Report the metrics of every face for the training events too."
    )
    save_predictions_every: int = Field(
        10, ge=0, description="Epochs between ROOT files of filled sensors while validating; 0 for none."
    )


AnyTask = Annotated[RegressionConfig | PretrainConfig | InpaintConfig, Field(discriminator="kind")]


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
    pictures: bool = Field(True, description="Draw figures when an evaluation follows; false for scans.")
    track: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="Trackers besides the run directory."
    )


class Config(StrictModel):
    """The whole configuration."""

    simulation: SimulationConfig = SimulationConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: AnyTask = RegressionConfig()
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
        task, normalization = self.task, self.data.normalization
        if isinstance(task, InpaintConfig) and task.freeze_encoder and self.train.encoder_from is None:
            raise ConfigError(
                "task.freeze_encoder is on, but train.encoder_from names no run to take the encoder from; "
                "give one, or switch it off."
            )
        changes = task.augmentation if isinstance(task, RegressionConfig) else None
        if normalization.npho_input == "relative_npho" and changes is not None:
            for name in ("energy_scale", "pileup_probability"):
                if getattr(changes, name):
                    raise ConfigError(
                        f"task.augmentation.{name} changes numbers of photons, which relative_npho does not "
                        "hold; set data.normalization.npho_input to npho, or the option to 0."
                    )
        threshold = None if isinstance(task, RegressionConfig) else task.npho_threshold
        if normalization.npho_input == "relative_npho" and threshold is not None and threshold >= 1:
            raise ConfigError(
                f"task.npho_threshold is {threshold:g}, but relative_npho never exceeds 1, so no time would "
                "be scored; set it below 1 or to null."
            )
        return self

"""`Config`: everything a run can be told, section by section, with units in the names.

A component that has constants of its own owns its section (`FieldConfig`); this module puts the sections
together and holds the rules that concern several of them. Below `tasks/` nobody sees the whole configuration.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from lhcb_extrap.data.field_source import FieldConfig
from lhcb_extrap.physics.constants import SLOPE_ARM_MM
from lhcb_extrap.physics.propagation import Acceptance
from lhcb_extrap.physics.sampling import MOMENTUM_STUDIES_GEV, TrackSampler
from lhcb_extrap.physics.transport import Method

PRESETS = "lhcb_extrap.presets"
Range = tuple[float, float]


class SimulationConfig(StrictModel):
    """Distribution of simulated tracks and how they are propagated."""

    momentum_gev: Range = Field(
        MOMENTUM_STUDIES_GEV["full_range"], description="Lowest and highest momentum, flat in the logarithm."
    )
    z0_mm: Range = Field((3000.0, 3000.0), description="Lowest and highest start; equal for a fixed plane.")
    dz_mm: Range = Field((4000.0, 4000.0), description="Shortest and longest path along z.")
    half_x_mm: float = Field(900.0, gt=0, description="|x| at the start is below this.")
    half_y_mm: float = Field(750.0, gt=0, description="|y| at the start is below this.")
    slopes: Literal["pointing", "flat"] = Field(
        "pointing", description="Slopes around the direction from the collision point, or flat."
    )
    slope_spread: float = Field(0.02, ge=0, description="Standard deviation of pointing slopes.")
    half_tx: float = Field(0.15, gt=0, description="|tx| of flat slopes is below this.")
    half_ty: float = Field(0.15, gt=0, description="|ty| of flat slopes is below this.")
    method: Method = Field("rk4", description="Stepping method of the truth.")
    step_mm: float = Field(20.0, gt=0, description="Longest step; 20 mm of rk4 are exact to 1e-4 mm.")
    max_x_mm: float = Field(4000.0, gt=0, description="Tracks beyond this |x| on their way are rejected.")
    max_y_mm: float = Field(4000.0, gt=0, description="Tracks beyond this |y| on their way are rejected.")
    max_slope: float = Field(2.0, gt=0, description="Tracks steeper than this are rejected.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.sampler()
        except ValueError as error:
            raise ConfigError(f"the section simulation does not fit together: {error}.") from error
        return self

    @property
    def acceptance(self) -> Acceptance:
        """Where a track may go."""
        return Acceptance(self.max_x_mm, self.max_y_mm, self.max_slope)

    @property
    def num_steps(self) -> int:
        """Steps of every track, enough for the longest path."""
        longest = max(abs(length) for length in self.dz_mm)
        return max(1, -int(-longest // self.step_mm))

    def sampler(self) -> TrackSampler:
        """The distribution of first states."""
        return TrackSampler(
            self.momentum_gev, self.z0_mm, self.dz_mm, self.half_x_mm, self.half_y_mm, self.slopes,
            self.slope_spread, self.half_tx, self.half_ty,
        )  # fmt: skip


class SimulatedData(StrictModel):
    """A data set that is simulated when no files are given."""

    num_tracks: int = Field(40_000, ge=10, description="Tracks of all three parts together.")
    num_workers: int = Field(1, ge=0, description="Simulating processes.")
    seed: int = Field(1, ge=0, description="Seed of the simulation.")


class DataConfig(StrictModel):
    """Where the tracks come from and how they are used."""

    files: tuple[str, ...] = Field((), description="Track files or globs, split by row into three parts.")
    simulated: SimulatedData | None = Field(None, description="Simulate a data set when `files` is empty.")
    train_fraction: float = Field(0.8, gt=0, lt=1, description="Share of the tracks to train on.")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share that chooses the best epoch.")
    batch_size: int = Field(2048, ge=1, description="Tracks in one optimiser step, over all processes.")
    z0_mm: float | None = Field(None, description="Start of tracks in files that do not store it.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train_fraction + self.validation_fraction >= 1:
            raise ConfigError(
                f"data.train_fraction {self.train_fraction} and data.validation_fraction "
                f"{self.validation_fraction} leave no test tracks; make them add up to less than 1."
            )
        return self


class _Network(StrictModel):
    hidden: tuple[int, ...] = Field((64, 64), description="Widths of the hidden layers.")
    use_planes: bool = Field(
        False, description="Feed z0 (and, with kick, dz) to the network: for tracks with variable planes."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"model.hidden is {list(self.hidden)}; give at least one positive width.")
        return self


class MlpConfig(_Network):
    """Plain network, trained on data alone."""

    kind: Literal["mlp"] = "mlp"
    activation: Literal["silu", "tanh", "relu"] = Field(
        "silu", description="Activation of the hidden layers."
    )


class PinnConfig(_Network):
    """Network of the whole path, trained on data and on the equations of motion."""

    kind: Literal["pinn"] = "pinn"
    num_collocation: int = Field(10, ge=1, description="Points on each path where the equations are tested.")


class RkPinnConfig(_Network):
    """Network with four Runge-Kutta stages."""

    kind: Literal["rk_pinn"] = "rk_pinn"

    @model_validator(mode="after")
    def _two(self) -> Self:
        if len(self.hidden) < 2:
            raise ConfigError(
                f"model.hidden is {list(self.hidden)}, but rk_pinn needs two widths or more: "
                "the last is that of the heads."
            )
        return self


class KickConfig(_Network):
    """Correction of the closed-form extrapolation through By(z)."""

    kind: Literal["kick"] = "kick"
    hidden: tuple[int, ...] = Field((32, 32), description="Widths of the hidden layers.")
    activation: Literal["tanh", "isru"] = Field(
        "isru", description="Activation of the hidden layers; isru is v/sqrt(1 + v^2)."
    )
    mirror: bool = Field(True, description="Use the mirror symmetries of the field, where it has them.")


ModelConfig = Annotated[MlpConfig | PinnConfig | RkPinnConfig | KickConfig, Field(discriminator="kind")]


class ExtrapolationConfig(StrictModel):
    """What is minimised."""

    kind: Literal["extrapolation"] = "extrapolation"
    data_loss: Literal["mse", "pseudo_huber"] | None = Field(
        None, description="Loss of the end; null is pseudo_huber for kick and mse for the others."
    )
    huber_delta_mm: float = Field(1.0, gt=0, description="Where pseudo_huber turns from square to linear.")
    slope_arm_mm: float = Field(
        SLOPE_ARM_MM, gt=0, description="Length that turns a slope error into one of position."
    )
    lambda_data: float = Field(1.0, ge=0, description="Weight of the distance to the true end.")
    lambda_pde: float = Field(1.0, ge=0, description="Weight of the equations of motion (pinn, rk_pinn).")
    lambda_ic: float = Field(1.0, ge=0, description="Weight of the initial condition (pinn).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lambda_data == self.lambda_pde == 0:
            raise ConfigError("task.lambda_data and task.lambda_pde are both 0; nothing would be learned.")
        return self


class OptimConfig(StrictModel):
    """The optimiser, AdamW, and its learning rate: linear warm-up, then a half cosine."""

    lr: float = Field(1e-3, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="Decoupled decay of matrices and kernels.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the steps that the warm-up takes.")
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="Last learning rate over the largest.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip the gradient norm here; null for no clipping."
    )


class PolishConfig(StrictModel):
    """Levenberg-Marquardt steps after AdamW, for small networks."""

    num_steps: int = Field(20, ge=1, description="Number of steps.")
    num_tracks: int = Field(50_000, ge=1, description="Training tracks of one step; all if there are fewer.")
    chunk_tracks: int = Field(1024, ge=1, description="Tracks whose derivatives are in memory at once.")
    damping: float = Field(1e-3, gt=0, description="First damping, relative to the diagonal.")
    max_trials: int = Field(8, ge=1, description="Dampings tried in one step.")


class TrainConfig(StrictModel):
    """The loop."""

    epochs: int = Field(100, ge=1, description="Passes over the training data, at most.")
    patience: int = Field(20, ge=1, description="Epochs without improvement after which to stop.")
    min_delta: float = Field(1e-6, ge=0, description="Smallest improvement that counts.")
    seed: int = Field(42, ge=0, description="Seed of weights, order and collocation points.")
    accumulation_steps: int = Field(1, ge=1, description="Pieces a batch is cut into; more need less memory.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Arithmetic of the forward pass.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights, which are evaluated."
    )
    polish: PolishConfig | None = Field(None, description="Second stage; null for none.")
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

    field: FieldConfig = FieldConfig()
    simulation: SimulationConfig = SimulationConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = MlpConfig()
    task: ExtrapolationConfig = ExtrapolationConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.batch_size % self.train.accumulation_steps:
            raise ConfigError(
                f"data.batch_size is {self.data.batch_size}, which train.accumulation_steps = "
                f"{self.train.accumulation_steps} does not divide; choose numbers that fit."
            )
        return self

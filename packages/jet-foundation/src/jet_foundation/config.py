"""`Config`: everything a run can be told, section by section, with units in the names.

This module puts the sections together and holds the rules that concern several of them. The normalisation is
no setting of a training: it is fitted when the data set is made and travels with it. Below `tasks/` nobody
sees the whole configuration.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from jet_foundation.data.schema import FeatureSet

PRESETS = "jet_foundation.presets"


class SimulatedData(StrictModel):
    """A data set that is simulated when none is given: 80 % training, 10 % validation, 10 % test."""

    engine: Literal["toy", "pythia"] = Field("toy", description="`toy` is no simulation of the LHC.")
    num_jets: int = Field(6000, ge=100, multiple_of=100, description="Jets of all ten classes together.")
    num_events: int = Field(3500, ge=70, description="Events of all classes together, for the task event.")
    num_workers: int = Field(2, ge=0, description="Simulating processes.")
    seed: int = Field(1, ge=0, description="Seed of the simulation.")


class DataConfig(StrictModel):
    """Where the jets come from and how they are read."""

    path: Path | None = Field(None, description="Data set made by `jet-foundation preprocess`.")
    simulated: SimulatedData | None = Field(None, description="Simulate a data set when `path` is null.")
    feature_set: FeatureSet | None = Field(None, description="Features of a particle; null for all.")
    max_train_jets: int | None = Field(None, ge=1, description="Train on that many jets; null for all.")
    batch_size: int = Field(512, ge=2, description="Jets in one optimiser step, over all processes.")


class ModelConfig(StrictModel):
    """The network: an encoder with particle attention, and a class token that reads it."""

    kind: Literal["lorentz_part", "part", "legacy"] = Field(
        "lorentz_part",
        description="LorentzParT, the Particle Transformer, or the network of the 2026 report.",
    )
    dim: int = Field(128, ge=2, multiple_of=2, description="Channels of a particle.")
    num_layers: int = Field(8, ge=1, description="Layers of particle attention.")
    num_heads: int = Field(8, ge=1, description="Attention heads.")
    embed_dims: tuple[int, ...] = Field((128, 512), description="Hidden widths of the embedding.")
    pair_dims: tuple[int, ...] = Field((64, 64, 64), description="Hidden widths of the pair network.")
    pair_norm: Literal["batch", "none"] = Field("batch", description="Normalisation in the pair network.")
    pair_kind: Literal["exact", "literal", "mass"] = Field("exact", description="Features of a pair.")
    ffn_ratio: int = Field(4, ge=1, description="Expansion of the feed-forward parts.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of particle attention.")
    num_class_layers: int = Field(2, ge=1, description="Layers of class attention.")
    mv_channels: int = Field(16, ge=1, description="Multivector channels of lorentz_part.")
    spurions: Literal["none", "time", "time_and_beam"] = Field(
        "time_and_beam", description="Directions that lorentz_part sees beside the jet."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ConfigError(
                f"model.dim is {self.dim}, which {self.num_heads} model.num_heads do not divide."
            )
        return self


class ClassificationConfig(StrictModel):
    """Tell the classes of the data set apart."""

    kind: Literal["classification"] = "classification"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label given to all classes.")


class PretrainConfig(StrictModel):
    """Hide particles and predict each of them from the others."""

    kind: Literal["pretrain"] = "pretrain"
    masking: Literal["random", "biased", "block"] = Field(
        "random", description="Which particles are hidden: any, rather the hard ones, or a region."
    )
    mask_ratio: float = Field(0.3, gt=0, lt=1, description="Share of the particles of a jet that is hidden.")
    coef_pt: float = Field(0.25, ge=0, description="Weight of the RMSE of pT.")
    coef_eta: float = Field(0.25, ge=0, description="Weight of the mean |Δη|.")
    coef_phi: float = Field(0.25, ge=0, description="Weight of 1 − cos Δφ.")
    coef_energy: float = Field(0.25, ge=0, description="Weight of the RMSE of E.")
    bias_gamma: float = Field(0.1, ge=0, description="Weight γ of the squared mean errors of pT and E.")
    coef_mass: float = Field(0.0, ge=0, description="Weight of the constraint m² = E² − |p|².")


class RegressionConfig(StrictModel):
    """Predict the mass of a jet."""

    kind: Literal["regression"] = "regression"
    target: Literal["mass", "sdmass", "report"] = Field(
        "mass", description="Mass of the summed particles, after soft drop, or that of the 2026 report."
    )
    huber_delta: float = Field(0.5, gt=0, description="Where the loss of ln m turns from square to linear.")


class GenerationConfig(StrictModel):
    """Generate the particles of a jet from what the encoder says of it, or from its class."""

    kind: Literal["generation"] = "generation"
    generator: Literal["flow", "cvae"] = Field(
        "flow", description="Flow matching on the point cloud, or independent particles from a CVAE."
    )
    condition: Literal["jet", "class"] = Field("jet", description="Summary of the jet, or its class alone.")
    num_layers: int = Field(4, ge=1, description="Layers of the flow.")
    num_steps: int = Field(20, ge=1, description="Integration steps of the flow.")
    latent_dim: int = Field(32, ge=1, description="Latent numbers of a particle in the CVAE.")
    beta: float = Field(1.0, ge=0, description="Weight of the Kullback-Leibler term of the CVAE.")


class SuperResolutionConfig(StrictModel):
    """Complete a jet of which only the leading particles are given."""

    kind: Literal["super_resolution"] = "super_resolution"
    num_given: int = Field(30, ge=1, description="Leading particles that are given.")
    num_total: int = Field(128, ge=2, description="Most particles of a completed jet.")
    num_layers: int = Field(2, ge=1, description="Layers of the decoder.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_total <= self.num_given:
            raise ConfigError(
                f"task.num_total is {self.num_total} but must exceed task.num_given = {self.num_given}."
            )
        return self


class EventConfig(StrictModel):
    """Tell the processes of events apart by their jets, leptons and missing momentum."""

    kind: Literal["event"] = "event"
    num_layers: int = Field(2, ge=1, description="Layers of attention over the objects of an event.")
    read_particles: bool = Field(
        True, description="Read the particles of the jets; false leaves the jets' four-vectors alone."
    )


TaskConfig = Annotated[
    ClassificationConfig
    | PretrainConfig
    | RegressionConfig
    | GenerationConfig
    | SuperResolutionConfig
    | EventConfig,
    Field(discriminator="kind"),
]


class StartConfig(StrictModel):
    """Where the weights of the encoder come from, and how much of it is trained further."""

    run: Path | None = Field(None, description="Run directory of a pre-training; null starts from scratch.")
    mode: Literal["full", "partial", "frozen"] = Field("full", description="What of the encoder is trained.")
    last_k: int = Field(2, ge=1, description="Layers of the encoder that `partial` trains.")
    lr_factor: float = Field(0.1, gt=0, description="Learning rate of the encoder over that of the head.")


class OptimConfig(StrictModel):
    """The optimiser, AdamW, and its learning rate: linear warm-up, then a half cosine."""

    lr: float = Field(1e-3, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled decay of matrices.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the steps that the warm-up takes.")
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

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = ClassificationConfig()
    start: StartConfig = StartConfig()
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

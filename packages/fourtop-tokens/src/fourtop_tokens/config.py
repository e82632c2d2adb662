"""`Config`: everything a run can be told, section by section, with units in the names.

A component that has constants of its own owns its section (`Binning`, `EventStatistics`); this module puts
the sections together and holds the rules that concern several of them. Constants that are fitted on the train
split are filled in at the start of a run and stored with it. Below `tasks/` nobody sees the whole
configuration.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fourtop_tokens.data.events import Units
from fourtop_tokens.data.scaling import EventStatistics, Scheme
from fourtop_tokens.data.schema import MuonIds
from fourtop_tokens.data.tokenizer import Binning, EdgeMode, FitOn, PhiMode, Vocabulary
from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError

PRESETS = "fourtop_tokens.presets"

Vector = Literal["four", "five"]
Pooling = Literal["cls", "mean", "max"]
Rows = Literal["joint", "shared"]
Pairwise = Literal["none", "physics", "physics_sm"]
TokensName = Literal["identity", "raw", "binned", "binned_legacy", "binned_background", "vq"]


class SimulationConfig(StrictModel):
    """What a simulated file is like."""

    muon_ids: MuonIds = Field("plus_5", description="Which muon is written as id 5.")


class SimulatedData(StrictModel):
    """A file that is simulated when none is given."""

    num_events: int = Field(20_000, ge=100, description="Events of all three splits together.")
    seed: int = Field(1, ge=0, description="Seed of the simulation.")
    num_workers: int = Field(1, ge=0, description="Simulating processes.")


class DataConfig(StrictModel):
    """Where the events come from and how they are read."""

    events: Path | None = Field(None, description="HDF5 file in the public format.")
    tokens: Path | None = Field(
        None, description="Binned HDF5 file to train on instead; needs binned tokens."
    )
    simulated: SimulatedData | None = Field(None, description="Simulate a file when there is none.")
    units: Units = Field("gev", description="Unit of energies and momenta in `events`.")
    num_events: int | None = Field(None, ge=1, description="Use only the first events of each split.")
    batch_size: int = Field(512, ge=1, description="Events in one optimiser step, over all processes.")
    augment: bool = Field(False, description="Rotate in phi and reflect in eta at random.")
    scaling: Scheme = Field("log", description="Which features are standardised, and how.")
    statistics: EventStatistics | None = Field(None, description="Constants of the train split; filled in.")


class VqVaeConfig(StrictModel):
    """The VQ-VAE over single objects."""

    kind: Literal["vqvae"] = "vqvae"
    vector: Vector = Field("five", description="`five`: E, pT, eta, phi and id; `four`: without E.")
    hidden_dim: int = Field(128, ge=1, description="Width of the hidden layers.")
    latent_dim: int = Field(32, ge=1, description="Dimension of the codes.")
    num_codes: int = Field(512, ge=2, description="Number of codes.")
    decay: float = Field(0.99, ge=0, lt=1, description="Decay of the codebook's averages.")
    dead_below: float = Field(0.1, ge=0, lt=0.5, description="Share of the average use that revives a code.")
    missing_dim: int = Field(32, ge=1, description="Hidden width of the missing-momentum head.")


class IdentityTokens(StrictModel):
    """Scaled features and a learnt vector for the id."""

    kind: Literal["identity"] = "identity"
    id_dim: int = Field(8, ge=1, description="Length of the vector of the id.")


class RawTokens(StrictModel):
    """Scaled features alone."""

    kind: Literal["raw"] = "raw"


class BinnedTokens(StrictModel):
    """One row for each joint bin of id, pT, eta, phi."""

    kind: Literal["binned"] = "binned"
    num_bins: int = Field(5, ge=2, le=16, description="Bins of each quantity.")
    with_energy: bool = Field(False, description="Bin E too; needs model.vector five.")
    phi_mode: PhiMode = Field("full", description="How azimuths are binned.")
    edge_mode: EdgeMode = Field("quantile", description="`legacy`: the off-by-one of the reference.")
    fit_on: FitOn = Field("all", description="Train events whose objects give the edges.")
    rows: Rows = Field(
        "shared",
        description="`shared`: add to the row of a token those of its single bins; `joint`: no more than it.",
    )
    binning: Binning | None = Field(None, description="The fitted binning; filled in.")

    @property
    def vocabulary(self) -> Vocabulary:
        """The numbering of the tokens."""
        return Vocabulary(num_bins=self.num_bins, with_energy=self.with_energy)


class VqTokens(StrictModel):
    """Codes of a VQ-VAE that was trained before."""

    kind: Literal["vq"] = "vq"
    run: Path | None = Field(None, description="Run directory of `train-vqvae`.")
    sha256: str | None = Field(None, description="Digest of its best checkpoint; filled in.")
    vqvae: VqVaeConfig | None = Field(None, description="Its model section; filled in.")
    statistics: EventStatistics | None = Field(None, description="Its constants; filled in.")


Tokens = Annotated[IdentityTokens | RawTokens | BinnedTokens | VqTokens, Field(discriminator="kind")]


class ClassifierConfig(StrictModel):
    """The NormFormer and its tokens."""

    kind: Literal["normformer"] = "normformer"
    tokens: Tokens = Field(IdentityTokens(), description="How an object becomes a token.")
    vector: Vector = Field("five", description="`five`: E, pT, eta, phi; `four`: without E.")
    met: bool = Field(True, description="Append the missing momentum and its azimuth.")
    pooling: Pooling = Field("cls", description="How tokens become one vector.")
    positions: bool = Field(True, description="Sinusoidal positions.")
    pairwise: Pairwise = Field(
        "none", description="Attention bias from m², ΔR, kT, z; `physics_sm` adds couplings and propagators."
    )
    pairwise_dim: int = Field(16, ge=1, description="Hidden width of the network behind the bias.")
    dim: int = Field(64, ge=2, multiple_of=2, description="Channels.")
    depth: int = Field(8, ge=1, description="Blocks.")
    num_heads: int = Field(8, ge=1, description="Attention heads.")
    num_parameters: int = Field(400_000, ge=1, description="Trainable parameters that mlp_dim aims at.")
    mlp_dim: int | None = Field(
        None, ge=1, description="Hidden width of the feed-forward networks; null follows num_parameters."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the blocks.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ConfigError(
                f"model.dim is {self.dim}, which {self.num_heads} model.num_heads do not divide."
            )
        if isinstance(self.tokens, BinnedTokens) and self.tokens.with_energy and self.vector == "four":
            raise ConfigError(
                "model.tokens.with_energy bins E, but model.vector is four, which leaves E out; use five."
            )
        return self


Model = Annotated[ClassifierConfig | VqVaeConfig, Field(discriminator="kind")]


class ClassificationConfig(StrictModel):
    """Tell tttt from the backgrounds."""

    kind: Literal["classification"] = "classification"
    num_classes: Literal[2, 5] = Field(2, description="2: tttt or not; 5: every process a class.")
    class_weights: bool = Field(True, description="Give every class the same weight in the loss.")


class ReconstructionConfig(StrictModel):
    """Reconstruct objects through a codebook."""

    kind: Literal["vqvae"] = "vqvae"
    id_weight: float = Field(1.0, ge=0, description="Weight of the object id.")
    commitment_weight: float = Field(0.25, ge=0, description="Weight that holds the encoder at its codes.")
    missing_weight: float = Field(1.0, ge=0, description="Weight of the missing momentum.")


Task = Annotated[ClassificationConfig | ReconstructionConfig, Field(discriminator="kind")]


class OptimConfig(StrictModel):
    """The optimiser, AdamW, and its learning rate: linear warm-up, then a half cosine."""

    lr: float = Field(1e-3, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled decay of matrices.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the steps that the warm-up takes.")
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="Last learning rate over the largest.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip the gradient norm here; null for no clipping."
    )
    lr_factors: dict[str, float] = Field(
        {}, description="Factor by parameter prefix, such as embedding: 0.1."
    )


class TrainConfig(StrictModel):
    """The loop."""

    epochs: int = Field(50, ge=1, description="Passes over the training data; there is no early stopping.")
    seed: int = Field(42, ge=0, description="Seed of weights, order, augmentation and dropout.")
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
    figures: bool = Field(True, description="Draw pictures when evaluating.")
    finish_checkpoint: Literal["best", "last"] = Field(
        "best", description="Weights that are evaluated; `best` on the validation split."
    )
    track: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="Trackers besides the run directory."
    )


class SweepConfig(StrictModel):
    """The factors of a sweep; every combination is trained with every seed."""

    seeds: int = Field(5, ge=1, description="Seeds of each configuration, from train.seed upwards.")
    tokens: tuple[TokensName, ...] = Field(("identity", "binned", "vq"), description="Tokenisations.")
    poolings: tuple[Pooling, ...] = Field(("cls", "mean", "max"), description="Poolings.")
    met: tuple[bool, ...] = Field((True, False), description="With and without the missing momentum.")
    vectors: tuple[Vector, ...] = Field(("five", "four"), description="With and without E.")
    pairwise: tuple[Pairwise, ...] | None = Field(
        None, description="Attention biases from pairs; null for that of model.pairwise alone."
    )
    vqvae: VqVaeConfig = Field(VqVaeConfig(), description="The VQ-VAEs; their vector is a factor.")
    vqvae_epochs: int = Field(10, ge=1, description="Epochs of the VQ-VAEs, one for each vector and seed.")
    vqvae_batch_size: int = Field(128, ge=1, description="Events in one step of these.")


class Config(StrictModel):
    """The whole configuration."""

    simulation: SimulationConfig = SimulationConfig()
    data: DataConfig = DataConfig()
    model: Model = ClassifierConfig()
    task: Task = ClassificationConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.batch_size % self.train.accumulation_steps:
            raise ConfigError(
                f"data.batch_size is {self.data.batch_size}, which train.accumulation_steps = "
                f"{self.train.accumulation_steps} does not divide; choose numbers that fit."
            )
        if (self.task.kind == "vqvae") != (self.model.kind == "vqvae"):
            raise ConfigError(
                f"task.kind is {self.task.kind} but model.kind is {self.model.kind}; task vqvae goes with "
                "model vqvae and classification with normformer, see the presets."
            )
        if self.data.tokens is not None:
            self._check_binned_file()
        return self

    def _check_binned_file(self) -> None:
        model = self.model
        if not isinstance(model, ClassifierConfig) or not isinstance(model.tokens, BinnedTokens):
            kind = model.tokens.kind if isinstance(model, ClassifierConfig) else model.kind
            raise ConfigError(
                f"data.tokens names a binned file, but the model takes {kind}; "
                "set model.tokens.kind=binned or give data.events."
            )
        for name, used in {
            "data.augment": self.data.augment,
            "model.pairwise": model.pairwise != "none",
        }.items():
            if used:
                raise ConfigError(
                    f"{name} needs momenta, which the binned file data.tokens = {self.data.tokens} does not "
                    "hold; give data.events instead."
                )

"""`Config`: everything a run can be told, section by section, with units in the names.

A component that has constants of its own owns its section (`MassTable`, `Selection`); this module puts the
sections together and holds the rules that concern several of them. Below `tasks/` nobody sees the whole
configuration.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from chhiggs_pnet.physics.processes import CHANNELS, Channel
from chhiggs_pnet.physics.selection import Selection
from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError

PRESETS = "chhiggs_pnet.presets"
Tier = Literal["easy", "medium", "all"]


class MassScaling(StrictModel):
    """Offset and scale of the masses that the network sees."""

    mHc_mean_gev: float = Field(description="Mean of mHc over the training points.")  # noqa: N815
    mHc_std_gev: float = Field(gt=0, description="Standard deviation of mHc.")  # noqa: N815
    mA_mean_gev: float = Field(description="Mean of mA over the training points.")  # noqa: N815
    mA_std_gev: float = Field(gt=0, description="Standard deviation of mA.")  # noqa: N815

    @classmethod
    def of(cls, points: tuple[MassPoint, ...]) -> Self:
        """Derive from training points; a mass that is the same at all of them has scale 1 GeV.

        Args:
            points: The training points.

        Returns:
            Mean and standard deviation of each mass.
        """
        found: dict[str, float] = {}
        for name in ("mHc", "mA"):
            values = [getattr(point, name) for point in points]
            mean = sum(values) / len(values)
            spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
            found |= {f"{name}_mean_gev": mean, f"{name}_std_gev": spread or 1.0}
        return cls(**found)


class SimulatedData(StrictModel):
    """Samples that are simulated when no store is given."""

    num_events: int = Field(3000, ge=50, description="Selected events of each process, channel and point.")
    num_background_events: int | None = Field(
        None, ge=50, description="Selected events of each background; null for `num_events`."
    )
    seed: int = Field(1, ge=0, description="Seed of the simulation.")
    num_workers: int = Field(2, ge=0, description="Simulating processes.")
    channels: tuple[Channel, ...] = Field(("Run1E2Mu",), min_length=1, description="Channels to simulate.")


class DataConfig(StrictModel):
    """Where the events come from and how they are drawn."""

    store: Path | None = Field(None, description="Store made by `chhiggs-pnet prepare`.")
    simulated: SimulatedData | None = Field(None, description="Simulate samples when `store` is null.")
    features: Literal["cms9", "ext14"] = Field("ext14", description="Features of a node.")
    channel: Channel | None = Field(None, description="Use one channel; null for all in the store.")
    fold: int = Field(4, ge=0, description="Fold to test on; the one before it validates, the others train.")
    batch_size: int = Field(512, ge=4, description="Events in one optimiser step, over all processes.")
    events_per_point: int | None = Field(
        None, ge=1, description="Events of each class at each mass point in an epoch; null for all signal."
    )
    validation_events: int | None = Field(
        2000, ge=10, description="At most so many events of each class to validate on; null for all."
    )
    train_points: tuple[MassPoint, ...] | None = Field(
        None, description="Train on these points; null for those of the store's mass table."
    )
    validation_points: tuple[MassPoint, ...] | None = Field(
        None, description="Select the checkpoint on these points; null for training and validation points."
    )
    max_open_mb: int = Field(4096, ge=1, description="Bound on the open parts of the store.")

    @field_validator("train_points", "validation_points", mode="before")
    @classmethod
    def _read_points(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        table = [MassPoint.parse(item) if isinstance(item, str) else item for item in value]
        return tuple(MassPoint(*item) if isinstance(item, (list, tuple)) else item for item in table)


class ParticleNetConfig(StrictModel):
    """The parametric graph network."""

    kind: Literal["particle_net"] = "particle_net"
    hidden_dims: tuple[int, int, int] = Field((128, 256, 512), description="Channels of the three blocks.")
    num_neighbors: int = Field(4, ge=1, description="Nearest neighbours of a node.")
    num_heads: int = Field(8, ge=1, description="Heads of the mass-aware attention.")
    conditioning: Literal["attention", "film", "both", "none"] = Field(
        "attention", description="Where the hypothesis acts on the nodes."
    )
    head_masses: bool = Field(True, description="Whether the classifier sees the hypothesis too.")
    head_dim: int = Field(256, ge=1, description="Hidden width of the classifier.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside edge convolutions.")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the classifier.")
    edge_dropout: float = Field(0.0, ge=0, lt=1, description="Probability of leaving out an edge.")
    input_norm: Literal["standard", "graph"] = Field("standard", description="Normalisation of the inputs.")
    frame: Literal["detector", "event"] = Field(
        "event", description="`event` rotates and mirrors every event into a frame of its own."
    )
    pair_masses: bool = Field(
        False, description="Whether the network sees the muon pair masses relative to mA and mZ."
    )
    use_channel: bool = Field(False, description="Whether the classifier sees the channel.")
    use_era: bool = Field(False, description="Whether the classifier sees the data-taking era.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for dim in self.hidden_dims:
            if self.conditioning in ("attention", "both") and dim % self.num_heads:
                raise ConfigError(
                    f"model.hidden_dims holds {dim}, which {self.num_heads} model.num_heads do not divide; "
                    "choose numbers that fit."
                )
        return self


class DeepSetsConfig(StrictModel):
    """Baseline: DeepSets."""

    kind: Literal["deepsets"] = "deepsets"
    hidden_dim: int = Field(128, ge=1, description="Width of every layer.")
    num_layers: int = Field(3, ge=1, description="Layers before and after the sum.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout.")
    input_norm: Literal["standard", "graph"] = Field("standard", description="Normalisation of the inputs.")
    frame: Literal["detector", "event"] = Field(
        "event", description="`event` rotates and mirrors every event into a frame of its own."
    )
    pair_masses: bool = Field(
        False, description="Whether the network sees the muon pair masses relative to mA and mZ."
    )
    use_channel: bool = Field(False, description="Whether the network sees the channel.")
    use_era: bool = Field(False, description="Whether the network sees the data-taking era.")


class MlpConfig(StrictModel):
    """Baseline: a multilayer perceptron on the nodes in their order."""

    kind: Literal["mlp"] = "mlp"
    hidden_dim: int = Field(128, ge=1, description="Width of every layer.")
    num_layers: int = Field(3, ge=1, description="Number of layers.")
    num_nodes: int = Field(9, ge=1, description="Objects that the network sees.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout.")
    input_norm: Literal["standard", "graph"] = Field("standard", description="Normalisation of the inputs.")
    frame: Literal["detector", "event"] = Field(
        "event", description="`event` rotates and mirrors every event into a frame of its own."
    )
    pair_masses: bool = Field(
        False, description="Whether the network sees the muon pair masses relative to mA and mZ."
    )
    use_channel: bool = Field(False, description="Whether the network sees the channel.")
    use_era: bool = Field(False, description="Whether the network sees the data-taking era.")


ModelConfig = Annotated[ParticleNetConfig | DeepSetsConfig | MlpConfig, Field(discriminator="kind")]


class ClassificationConfig(StrictModel):
    """Tell signal, nonprompt, diboson and ttX apart under a hypothesis."""

    kind: Literal["classification"] = "classification"
    difficulty: Literal["none", "gap"] = Field("none", description="Weight of a hypothesis in the loss.")
    negative_weights: Literal["abs", "drop", "keep"] = Field(
        "abs", description="What becomes of negative event weights."
    )
    disco_weight: float = Field(0.0, ge=0, description="Factor of the decorrelation from the pair masses.")
    mass_scaling: MassScaling | None = Field(
        None, description="Offset and scale of the masses; null derives them from the training points."
    )


class OptimConfig(StrictModel):
    """The optimiser, AdamW, and its learning rate: linear warm-up, then a half cosine."""

    lr: float = Field(1e-3, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="Decoupled decay of matrices and kernels.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the steps that the warm-up takes.")
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="Last learning rate over the largest.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip the gradient norm here; null for no clipping."
    )
    lr_factors: dict[str, float] = Field(
        {}, description="Factor by parameter prefix, such as network.convolutions: 0.1."
    )


class CurriculumStep(StrictModel):
    """A share of the epochs on the masses of one tier."""

    fraction: float = Field(gt=0, le=1, description="Share of the epochs.")
    tier: Tier = Field(
        description="`easy`: the third of the points with the largest AUC; `medium`: two thirds; `all`."
    )


class PretrainConfig(StrictModel):
    """Stage 1: one network a mass point; it measures how hard each point is."""

    epochs: int = Field(0, ge=0, description="Epochs at each point; 0 leaves stages 1 and 2 out.")
    lr: float = Field(1e-3, gt=0, description="Largest learning rate.")


class AverageConfig(StrictModel):
    """Stage 2: from one network a point to one network."""

    method: Literal["mean", "branch", "sequential", "rebasin", "none"] = Field(
        "none",
        description="`mean` of the weights; `branch`: the mean of short trainings that share a joint start; "
        "`sequential`: one network through all points; `rebasin`: the mean after matching hidden units; "
        "`none`: fresh weights.",
    )
    branch_epochs: int = Field(1, ge=1, description="Joint epochs before the branches.")
    norm_batches: int = Field(
        20, ge=0, description="Batches that re-estimate the batch normalisation of the average."
    )
    keep_lowest: bool = Field(
        True, description="Start from whichever of average, members and fresh weights has the lowest loss."
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
    curriculum: tuple[CurriculumStep, ...] = Field(
        (), description="Tiers of mass points in the order of training; their shares add up to 1."
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

    masses: MassTable = MassTable()
    selection: Selection = Selection()
    data: DataConfig = DataConfig()
    model: ModelConfig = ParticleNetConfig()
    task: ClassificationConfig = ClassificationConfig()
    optim: OptimConfig = OptimConfig()
    pretrain: PretrainConfig = PretrainConfig()
    average: AverageConfig = AverageConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.batch_size % self.train.accumulation_steps:
            raise ConfigError(
                f"data.batch_size is {self.data.batch_size}, which train.accumulation_steps = "
                f"{self.train.accumulation_steps} does not divide; choose numbers that fit."
            )
        if self.pretrain.epochs == 0:
            for name, used in (
                (f"average.method is {self.average.method}", self.average.method != "none"),
                ("train.curriculum has tiers", bool(self.train.curriculum)),
            ):
                if used:
                    raise ConfigError(
                        f"{name}, which needs one network a mass point; set pretrain.epochs above 0."
                    )
        if self.average.method == "rebasin" and self.model.kind != "particle_net":
            raise ConfigError(
                f"average.method is rebasin, which knows particle_net only, but model.kind is "
                f"{self.model.kind}; choose mean."
            )
        total = sum(step.fraction for step in self.train.curriculum)
        if self.train.curriculum and abs(total - 1) > 1e-6:
            raise ConfigError(f"the shares of train.curriculum add up to {total:g}; they should give 1.")
        return self


def channels_of(config: Config) -> tuple[Channel, ...]:
    """Channels that a run looks at.

    Args:
        config: The whole configuration.

    Returns:
        The chosen one, or both.
    """
    return CHANNELS if config.data.channel is None else (config.data.channel,)

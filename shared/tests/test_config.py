import json
import re
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from hep_shared.config import StrictModel, list_presets, load_config, to_plain
from hep_shared.errors import ConfigError


class Conv(StrictModel):
    kind: Literal["conv"] = "conv"
    depth: int = Field(default=2, ge=1)
    kernel_size: int = 3


class Pool(StrictModel):
    kind: Literal["pool"] = "pool"
    size: int = 2


class Graph(StrictModel):
    kind: Literal["graph", "hypergraph"] = "graph"
    depth: int = 7
    num_heads: int = 4
    stem: Annotated[Conv | Pool, Field(discriminator="kind")] = Conv(kernel_size=9)


class Optim(StrictModel):
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, ...] = (0.9, 0.99)
    weights: dict[str, float] = Field(default={"energy": 1.0})
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int | Literal["auto"] = "auto"

    @field_validator("betas")
    @classmethod
    def _below_one(cls, value):
        if max(value) >= 1:
            raise ValueError("every beta must be below 1")
        return value


class Data(StrictModel):
    file: str
    num_events: int = 10


class Scaling(StrictModel):
    """Its fields follow from its scheme where they are not given."""

    scheme: Literal["photons", "relative"] = "photons"
    scale: float = 1000.0

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, data, handler):
        if not isinstance(data, dict):
            return handler(data)
        scales = {"photons": 1000.0, "relative": 0.5}
        model = handler({"scale": scales[data.get("scheme", "photons")], **data})
        model.model_fields_set.intersection_update(data)
        return model


class Config(StrictModel):
    seed: int = 0
    scaling: Scaling = Scaling()
    data: Data
    model: Annotated[Conv | Graph, Field(discriminator="kind")] = Conv(depth=5)
    heads: tuple[Annotated[Conv | Graph, Field(discriminator="kind")], ...] = ()
    extra: Graph | None = None
    optim: Optim = Optim(lr=2e-3)

    @model_validator(mode="after")
    def _enough_events(self):
        if self.data.num_events < self.seed:
            raise ValueError("data.num_events must be at least seed")
        return self


PRESETS = {
    "small": "data: {file: small.root}\noptim: {lr: 0.1, weights: {angle: 2.0}}\n",
    "large": "base: small\ndata: {num_events: 1000}\nmodel: {kernel_size: 5}\n",
    "graph": "base: small\nmodel: {kind: graph, num_heads: 8}\n",
    "loop_a": "base: loop_b\n",
    "loop_b": "base: loop_a\n",
    "typo": "data: {file: a, num_event: 3}\n",
    "list": "- 1\n",
    "empty": "",
}


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    root = tmp_path_factory.mktemp("presets")
    package = root / "some_presets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in PRESETS.items():
        (package / f"{name}.yaml").write_text(text)
    sys.path.insert(0, str(root))
    yield "some_presets"
    sys.path.remove(str(root))


@pytest.fixture
def load(presets, tmp_path):
    def load(preset="small", text=None, *overrides):
        file = None
        if text is not None:
            file = tmp_path / "my.yaml"
            file.write_text(text)
        return load_config(Config, presets=presets, preset=preset, file=file, overrides=overrides)

    return load


def test_presets_are_listed(presets):
    assert list_presets(presets) == sorted(PRESETS)


def test_what_a_section_fills_in_follows_what_was_given(load):
    assert load().scaling == Scaling(scheme="photons", scale=1000.0)
    assert load("small", "scaling: {scheme: relative}").scaling.scale == 0.5
    assert load("small", None, "scaling.scheme=relative").scaling.scale == 0.5
    assert load("small", "scaling: {scale: 3.0}", "scaling.scheme=relative").scaling.scale == 3.0
    again = Config.model_validate(to_plain(load("small", None, "scaling.scheme=relative")))
    assert again.scaling.scale == 0.5


def test_precedence(load):
    assert load().optim.lr == 0.1
    assert load().model.depth == 5  # the default object of the field, not the default of its class
    assert load("large", "optim: {lr: 0.2}").optim.lr == 0.2
    config = load("large", "optim: {lr: 0.2}\nseed: 1", "optim.lr=3e-4", "seed=2")
    assert (config.optim.lr, config.seed, config.data.num_events, config.data.file) == (
        3e-4,
        2,
        1000,
        "small.root",
    )
    assert config.model == Conv(depth=5, kernel_size=5)


def test_mappings_merge_and_lists_are_replaced(load):
    optim = load("small", None, "optim.weights.charge=3", "optim.betas=[0.5]").optim
    assert optim.weights == {"energy": 1.0, "angle": 2.0, "charge": 3.0}
    assert optim.betas == (0.5,)


def test_another_kind_discards_the_keys_of_the_former_one(load):
    assert (
        load("large", "model: {kind: graph}").model == Graph()
    )  # kernel_size: 5 does not leak, nor depth: 5
    assert load("graph", None, "model.kind=conv").model == Conv()
    assert load("graph", None, "model.num_heads=2").model == Graph(num_heads=2)


def test_kinds_that_one_model_serves_share_their_keys(load):
    wanted = Graph(kind="hypergraph", num_heads=8)
    assert load("graph", None, "model.kind=hypergraph").model == wanted
    assert load("small", "extra: {num_heads: 8}", "extra.kind=hypergraph").extra == wanted


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_set_items_does_not_matter_to_a_change_of_kind(load, order):
    items = ["model.num_heads=2", "model.kind=hypergraph"][::order]
    assert load("small", None, *items).model == Graph(kind="hypergraph", num_heads=2)


def test_defaults_of_a_chosen_kind_reach_into_its_own_sections(load):
    model = load("small", None, "model.kind=graph", "model.stem.depth=1").model
    assert model.stem == Conv(depth=1, kernel_size=9)
    assert load("small", None, "extra.stem.depth=1").extra == Graph(stem=Conv(depth=1, kernel_size=9))


def test_a_file_may_start_from_a_preset(load):
    assert load(None, "base: large\nseed: 3").data.num_events == 1000


def test_frozen_and_plain(load):
    config = load()
    with pytest.raises(ValueError, match=r"frozen"):
        config.seed = 1
    plain = to_plain(config)
    assert Config.model_validate(json.loads(json.dumps(plain))) == config
    assert plain["optim"]["betas"] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("preset", "text", "overrides", "sentence"),
    [
        ("small", None, ["optim.lr=abc"],
         r"--set optim.lr=abc: optim.lr is 'abc' but should be a valid number, .*\."),
        ("small", "optim: {lr: -1}", [], r".*my.yaml: optim.lr is -1 but should be greater than 0\."),
        ("typo", None, [],
         r"preset typo: data.num_event \(given 3\) is not a key; the nearest key is data.num_events\."),
        ("small", None, ["lr=1"], r"--set lr=1: lr \(given 1\) is not a key; did you mean optim.lr\."),
        ("small", None, ["zzz=1"],
         r".* is not a key; the keys here are seed, scaling, data, model, heads, extra, optim\."),
        ("graph", None, ["model.num_head=1"], r".* model.num_head .* the nearest key is model.num_heads\."),
        ("graph", None, ["model.stem.dept=1"],
         r".* model.stem.dept .* the nearest key is model.stem.depth\."),
        ("small", None, ["model.num_heads=1"],
         r".* model.num_heads \(given 1\) is not a key; did you mean extra.num_heads\."),
        ("small", None, ["model.kind=grap"],
         r"--set model.kind=grap: model.kind is 'grap' but should be conv, graph or hypergraph, "
         r"did you mean 'graph'\."),
        ("small", "heads: [{depth: 1}]", [],
         r"heads.0.kind is missing; allowed are conv, graph or hypergraph\."),
        ("small", "heads: [{kind: conv, dept: 1}]", [],
         r".*: heads.0.dept .* nearest key is heads.0.depth\."),
        (None, "seed: 1", [], r"data.file is missing; give it in --config or as --set data.file=VALUE\."),
        ("small", None, ["optim.schedule=cos"],
         r".*: optim.schedule is 'cos' but should be 'cosine' or 'constant'\."),
        ("small", None, ["optim.betas=[1.5]"], r".*: optim.betas is \[1.5\]: every beta must be below 1\."),
        ("small", "seed: 99", [], r"preset small, .*my.yaml: data.num_events must be at least seed\."),
        ("small", None, ["seed=null"], r"--set seed=null: seed is None but should be a valid integer\."),
        ("small", None, ["optim=3"], r"--set optim=3: optim is 3 but should be a valid .*Optim\."),
        ("smal", None, [],
         r"there is no preset 'smal', did you mean 'small'; the presets are empty, graph, .* or typo\."),
        ("../small", None, [], r"there is no preset '../small'.*"),
        ("loop_a", None, [], r"the presets loop_a -> loop_b -> loop_a start from each other\."),
        ("list", None, [], r"preset list holds a list but should hold a mapping of keys to values\."),
        ("small", "seed: 1\nseed: 2", [], r".*my.yaml gives the key seed twice, the second time in line 2\."),
        ("small", "optim: [1, 2", [], r".*my.yaml is not valid YAML: .*line 1.*\."),
        ("small", "seed: !!python/object/apply:os.system [true]", [], r".*my.yaml is not valid YAML: .*"),
        ("small", "? [a, b]\n: 1", [], r".*my.yaml is not valid YAML: .*"),
        ("small", "when: 2020-99-99", [], r".*my.yaml is not valid YAML: .*"),
        ("small", None, ["seed"], r"--set seed should have the form dotted.key=VALUE, .*"),
        ("small", None, ["a..b=1"], r"--set a..b=1 should have the form .*"),
        ("small", None, ["seed=[1"], r"--set seed=\[1 is not valid YAML: .*"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_sentence(load, preset, text, overrides, sentence):
    with pytest.raises(ConfigError) as caught:
        load(preset, text, *overrides)
    assert re.fullmatch(sentence, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_union_of_plain_values_names_the_key_once_for_each_alternative(load):
    with pytest.raises(ConfigError) as caught:
        load("small", None, "optim.batch_size=many")
    assert str(caught.value).count("optim.batch_size is 'many' but should be") == 2
    assert "'auto'" in str(caught.value)
    assert "literal" not in str(caught.value)


def test_several_mistakes_are_joined(load):
    with pytest.raises(
        ConfigError, match=r"^--set seed=x: seed is 'x' .*; --set optim.lr=0: optim.lr is 0 .*\.$"
    ):
        load("small", None, "seed=x", "optim.lr=0")


def test_a_missing_file(presets, tmp_path):
    with pytest.raises(
        ConfigError, match=r"--config .*absent.yaml cannot be read \(No such file or directory\); give"
    ):
        load_config(Config, presets=presets, file=tmp_path / "absent.yaml")


def test_a_binary_file(presets, tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"not UTF-8 text"):
        load_config(Config, presets=presets, file=tmp_path / "my.yaml")


def test_importing_config_does_not_import_torch():
    code = "import sys, hep_shared.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

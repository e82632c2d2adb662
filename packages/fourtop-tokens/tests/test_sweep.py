import json

import h5py
import pytest

from fourtop_tokens import sweep as module
from fourtop_tokens.report import read_runs
from fourtop_tokens.sweep import Member, member_config, members, sweep, vqvae_config
from hep_shared.errors import ConfigError, InputFileError, UserError

VQVAE = ("sweep.vqvae_epochs=1", "sweep.vqvae_batch_size=32", "sweep.vqvae.num_codes=16")
SMALL = ("train.epochs=1", "sweep.seeds=2", *VQVAE)


@pytest.fixture(scope="module")
def done(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    return out, sweep(tiny_config(*SMALL), out, limit=3, device="cpu")


def test_manifest_names_configurations_and_duplicates(done):
    manifest = json.loads((done[0] / "manifest.json").read_text())
    assert len(manifest["configurations"]) == 30
    assert len(manifest["duplicates"]) == 6
    assert done[1] == {
        "output": done[0], "configurations": 3, "duplicates": 6, "runs": 6, "runs_made": 6
    }  # fmt: skip


def test_runs_have_their_factors(done):
    runs, labels = read_runs([done[0]])
    assert len(labels) == 60
    assert {(run.levels["tokens"], run.seed) for run in runs} == {
        (tokens, seed) for tokens in ("identity", "binned", "vq") for seed in (42, 43)
    }
    names = {path.name for path in (done[0] / "runs").iterdir()}
    assert "binned-cls-met-four_seed43" in names
    assert {path.name for path in (done[0] / "vqvae").iterdir()} == {"five_seed42", "five_seed43"}


def test_going_on_makes_only_what_is_missing(done, tiny_config, monkeypatch):
    out, _ = done
    (out / "runs" / "identity-cls-met-five_seed43" / "evaluation_test.json").unlink()
    trained = []
    original = module.train

    def counting(config, **options):
        trained.append(options["out"].name)
        return original(config, **options)

    monkeypatch.setattr(module, "train", counting)
    assert sweep(tiny_config(*SMALL), out, limit=3, device="cpu")["runs_made"] == 1
    assert trained == ["identity-cls-met-five_seed43"]


def test_other_settings_need_another_directory(done, tiny_config):
    with pytest.raises(UserError, match=r"holds a sweep with other settings \(train.epochs\)"):
        sweep(tiny_config(*SMALL, "train.epochs=3"), done[0], limit=3, device="cpu")


def test_ensemble_mode_gives_runs_too(tiny_config, tmp_path):
    config = tiny_config(*SMALL, "sweep.tokens=[identity]")
    assert sweep(config, tmp_path / "s", limit=1, ensemble=True, device="cpu")["runs_made"] == 2
    runs, _ = read_runs([tmp_path / "s"])
    assert [run.seed for run in runs] == [42, 43]


def test_six_are_three_tokenisations_with_two_poolings(tiny_config):
    chosen = members(tiny_config())[0][:6]
    assert {(member.tokens, member.pooling) for member in chosen} == {
        (tokens, pooling) for tokens in ("identity", "binned", "vq") for pooling in ("cls", "mean")
    }


def test_the_bias_from_pairs_varies_slowest(tiny_config, tmp_path):
    factors = ("sweep.pairwise=[none,physics]", "sweep.tokens=[identity,binned]", "sweep.met=[true]")
    config = tiny_config(*factors)
    names = [member.name for member in members(config)[0]]
    plain = [name for name in names if "physics" not in name]
    assert names[: len(plain)] == plain
    assert "identity-cls-met-five-physics" in names
    # Masses of pairs hold E: both vectors of binned tokens are trained.
    assert {"binned-cls-met-four-physics", "binned-cls-met-five-physics"} <= set(names)
    assert member_config(config, tmp_path, members(config)[0][-1], 1).model.pairwise == "physics"
    alone = members(tiny_config("model.pairwise=physics_sm"))[0]
    assert {member.pairwise for member in alone} == {"physics_sm"}


def test_controls_keep_their_bins(tiny_config, tmp_path):
    config = tiny_config()
    legacy = member_config(config, tmp_path, Member("binned_legacy", "cls", True, "four"), 3)
    assert (legacy.model.tokens.phi_mode, legacy.model.tokens.edge_mode) == ("legacy", "legacy")
    background = member_config(config, tmp_path, Member("binned_background", "cls", True, "four"), 3)
    assert background.model.tokens.fit_on == "background"
    assert background.train.seed == 3


def test_codebooks_have_the_vector_of_their_members(tiny_config, tmp_path):
    config = vqvae_config(tiny_config("data.augment=true"), "four", 7)
    assert (config.model.vector, config.train.seed, config.data.augment) == ("four", 7, False)
    member = member_config(tiny_config(), tmp_path, Member("vq", "cls", True, "four"), 7)
    assert member.model.tokens.run == tmp_path / "vqvae" / "four_seed7"


def test_nothing_is_written_for_a_file_that_cannot_be_used(tiny_config, sample, tmp_path):
    with h5py.File(sample[0]) as source, h5py.File(tmp_path / "e.h5", "w") as target:
        for key in set(source) - {"X_test"}:
            source.copy(key, target)
    with pytest.raises(InputFileError, match="'X_test': is missing"):
        sweep(tiny_config(f"data.events={tmp_path / 'e.h5'}"), tmp_path / "sweep", limit=1, device="cpu")
    assert not (tmp_path / "sweep").exists()


def test_only_classifiers_of_events(tiny_vqvae_config, tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="a sweep needs the classifier normformer"):
        sweep(tiny_vqvae_config(), tmp_path)
    with pytest.raises(ConfigError, match=r"a sweep compares tokens; give data.events"):
        sweep(tiny_config("data.tokens=t.h5", "model.tokens.kind=binned"), tmp_path)

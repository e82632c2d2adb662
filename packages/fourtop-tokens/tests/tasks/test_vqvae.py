import pytest
import torch

from fourtop_tokens.config import Config
from fourtop_tokens.tasks import classification, vqvae
from fourtop_tokens.tasks.common import build_stream
from fourtop_tokens.train import with_data
from hep_shared.errors import CheckpointError, ConfigError, UserError


def test_history_holds_losses_and_use_of_the_codebook(vqvae_run):
    record = vqvae_run.history()[-1]
    for name in ("val_loss", "val_loss_ids", "val_loss_features", "val_codebook_use", "val_perplexity"):
        assert record[name] is not None
    assert 0 < record["val_codebook_use"] <= 1


def test_k_means_start_uses_every_code(tiny_vqvae_config, tmp_path):
    torch.manual_seed(0)
    config = with_data(tiny_vqvae_config(), tmp_path)
    module, stream = vqvae.build_model(config), build_stream(config, "train")
    vqvae.start(module, config, stream)
    module.eval()
    used = [module(batch.inputs, batch.labels)[2].indices for batch in stream.batches()]
    assert len(torch.cat(used).unique()) == 16


def test_overfits_one_batch(tiny_vqvae_config, tmp_path):
    torch.manual_seed(0)
    config = with_data(tiny_vqvae_config("model.num_codes=256", "data.batch_size=8"), tmp_path)
    module, stream = vqvae.build_model(config), build_stream(config, "train")
    batch = next(stream.batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for step in range(150):
        if step == 20:
            module.network.codebook.start(module(batch.inputs, batch.labels)[2].latent.detach())
        optimizer.zero_grad()
        loss = vqvae.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def test_padding_never_changes_the_loss(tiny_vqvae_config, tmp_path):
    config = with_data(tiny_vqvae_config(), tmp_path)
    module = vqvae.build_model(config).eval()
    ids, features, missing = next(build_stream(config, "val").batches()).inputs
    labels = torch.zeros(len(ids), dtype=torch.int64)
    changed = torch.where((ids > 0)[..., None], features, 1e3)
    assert torch.equal(
        module((ids, features, missing), labels)[0], module((ids, changed, missing), labels)[0]
    )


@pytest.fixture
def with_codes(tiny_config, vqvae_run):
    """Function that gives a classifier configuration on the codes of the trained VQ-VAE."""

    def build(*more):
        items = ("model.tokens.kind=vq", f"model.tokens.run={vqvae_run.path}")
        return tiny_config(*items, *more)

    return build


def test_classifier_takes_the_codes_over(with_codes, vqvae_run, tmp_path):
    config = with_data(with_codes(), tmp_path)
    assert config.model.tokens.sha256 == vqvae.checkpoint_digest(vqvae_run)
    module = classification.build_model(config)
    classification.start(module, config, build_stream(config, "train"))
    weights = vqvae_run.load_checkpoint("best")["ema"]
    tokenizer = module.network.embedding.tokenizer
    assert torch.equal(tokenizer.codes, weights["module.network.codebook.codes"])
    for name, tensor in tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, weights[f"module.network.encoder.{name}"])


def test_the_rows_train_and_the_tokenizer_does_not(with_codes, start, tmp_path):
    run = start(with_codes("train.epochs=1"), tmp_path / "run")
    config = Config.model_validate(run.config)
    assert config.model.tokens.sha256
    torch.manual_seed(0)
    fresh = classification.build_model(config)
    classification.start(fresh, config, build_stream(config, "train"))
    state = run.load_checkpoint("last")["model"]
    prefix = "network.embedding."
    for name, tensor in fresh.network.embedding.state_dict().items():
        same = torch.equal(state[prefix + name], tensor)
        assert same == name.startswith("tokenizer."), name


def test_a_vqvae_for_other_features_is_refused(with_codes, tmp_path):
    with pytest.raises(ConfigError, match=r"was trained with model.vector five, but model.vector is four"):
        with_data(with_codes("model.vector=four"), tmp_path)


def test_a_run_that_is_no_vqvae_is_refused(tiny_config, finished, tmp_path):
    with pytest.raises(ConfigError, match="is no VQ-VAE but a normformer"):
        with_data(tiny_config("model.tokens.kind=vq", f"model.tokens.run={finished.path}"), tmp_path)


def test_without_a_run_there_is_a_hint(tiny_config, tmp_path):
    with pytest.raises(
        ConfigError, match=r"model.tokens.run names no run; train one with `fourtop-tokens train-vqvae`"
    ):
        with_data(tiny_config("model.tokens.kind=vq"), tmp_path)


def test_a_changed_checkpoint_is_noticed(with_codes, tmp_path):
    config = with_data(with_codes(), tmp_path)
    tokens = config.model.tokens.model_copy(update={"sha256": "0" * 64})
    config = config.model_copy(update={"model": config.model.model_copy(update={"tokens": tokens})})
    with pytest.raises(CheckpointError, match="but 000000000000 was recorded"):
        classification.start(classification.build_model(config), config, build_stream(config, "train"))


def test_a_vqvae_predicts_nothing(vqvae_run, tmp_path):
    from fourtop_tokens.export import export

    with pytest.raises(UserError, match="this run is a VQ-VAE, which classifies nothing"):
        export(vqvae_run.path, tmp_path / "m.onnx")

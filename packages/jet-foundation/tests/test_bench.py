"""What `bench` compares: the same function of the same jets, whoever computes it."""

import logging

import pytest
import torch

from jet_foundation import bench
from jet_foundation.data.loader import pad_jets
from jet_foundation.data.normalization import Normalization
from jet_foundation.models.encoder import num_parameters


def test_an_absent_peer_is_left_out_with_a_sentence(monkeypatch, caplog):
    monkeypatch.setattr(bench.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert not bench._is_installed("weaver", "the Particle Transformer", "weaver-core")
    assert "the Particle Transformer is not compared with a peer: install weaver-core" in caplog.text


def test_inputs_are_arranged_for_weaver(toy_jets):
    batch = pad_jets(toy_jets.truncated(50), Normalization.part("kin"))
    features, p4, mask = bench.weaver_inputs(batch)
    num = len(batch.labels)
    assert (features.shape, p4.shape, mask.shape) == ((num, 7, 128), (num, 4, 128), (num, 1, 128))
    torch.testing.assert_close(p4[:, 3, :50], batch.p4[:, :50, 0])
    torch.testing.assert_close(p4[:, 0, :50], batch.p4[:, :50, 1])
    assert torch.equal(mask.sum((1, 2)).long(), batch.valid_mask.sum(1))


def test_the_size_is_the_published_one():
    network = bench.published_part(17, 10)
    assert num_parameters(network) == 2_143_486


@torch.no_grad()
def test_weavers_weights_give_weavers_numbers(toy_jets):
    pytest.importorskip("weaver", reason="weaver-core is not installed")
    torch.manual_seed(0)
    batch = pad_jets(toy_jets, Normalization.part("kin"))
    peer, ours = bench.weaver_part(7, 10), bench.published_part(7, 10)
    for name, parameter in peer.named_parameters():
        if name.endswith(("c_attn", "w_resid")):
            parameter.uniform_(0.5, 1.5)
    inputs = bench.weaver_inputs(batch)
    peer.train()(*inputs)  # running statistics of real pairs
    ours.load_state_dict(bench.from_weaver(peer.state_dict()))
    found = ours.eval()(batch.p4, batch.features, batch.valid_mask)
    torch.testing.assert_close(found, peer.eval()(*inputs), rtol=0, atol=1e-5)

"""The C++ header gives what PyTorch gives."""

import shutil

import numpy as np
import pytest
import torch

from lhcb_extrap.compare import compile_header
from lhcb_extrap.export import example_tracks, export
from lhcb_extrap.models.cpp_header import numbers
from lhcb_extrap.predict import load_run


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_header_compiles_and_agrees(trained, normalization, tmp_path):
    header = tmp_path / "kick.hpp"
    export(trained / "kick", header)
    tracks = example_tracks(normalization, 101).numpy()
    tracks[0, 4] = 0.0
    ours = compile_header(header)(tracks)()
    theirs = load_run(trained / "kick", "cpu").extrapolate(tracks)
    np.testing.assert_allclose(ours[:, :2], theirs[:, :2], rtol=0, atol=2e-3)  # mm; float32 at 2 m
    np.testing.assert_allclose(ours[:, 2:], theirs[:, 2:], rtol=0, atol=1e-6)
    again = compile_header(header)(tracks[:1])()  # fewer tracks than lanes
    np.testing.assert_array_equal(again, ours[:1])


def test_numbers_are_floats():
    assert numbers([1.0, -2.5, 3e-12, float(torch.tensor(1 / 3))]) == "1.0f, -2.5f, 3e-12f, 0.333333343f"

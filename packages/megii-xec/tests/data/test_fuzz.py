"""Damaged files end in one sentence, or are read as what they say; nothing else escapes."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot

from hep_shared.errors import InputFileError, UserError
from hep_shared.files import write_manifest
from hep_shared.testing import mutate_bytes
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import NUM_SENSORS
from megii_xec.data.stream import PhotonBatch, PhotonStream

NUM_MUTANTS = 200
COMPRESSIONS = {"lz4": uproot.LZ4(1), "zlib": uproot.ZLIB(1), "stored": uproot.ZLIB(0)}


def read(path: Path) -> list[PhotonBatch]:
    with PhotonStream(path, Normalization(), batch_size=4, targets=("energy", "timing")) as stream:
        return list(stream.batches())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_mutants_are_refused_or_read(make_photons: Callable[..., Path], compression: str) -> None:
    path = make_photons(num_events=6, options={"compression": COMPRESSIONS[compression], "basket": 3})
    original = path.read_bytes()
    sound = torch.cat([batch.sensors for batch in read(path)])
    rng = np.random.default_rng(11)
    refused = altered = 0
    sentences: list[str] = []
    for number in range(NUM_MUTANTS // len(COMPRESSIONS) + 1):
        mutant = path.with_name(f"mutant-{number}.root")
        mutant.write_bytes(mutate_bytes(original, rng))
        started = time.monotonic()
        try:
            batches = read(mutant)
        except InputFileError as error:
            refused += 1
            sentences.append(str(error))
        else:
            sensors = torch.cat([batch.sensors for batch in batches])
            assert sensors.shape[1:] == (NUM_SENSORS, 2)
            assert torch.isfinite(sensors).all()
            assert all(torch.isfinite(values).all() for b in batches for values in b.targets.values())
            altered += not torch.equal(sensors, sound)
        assert time.monotonic() - started < 5.0
        mutant.unlink()
    assert all("mutant-" in sentence and "\n" not in sentence for sentence in sentences)
    assert refused > NUM_MUTANTS // len(COMPRESSIONS) // 4
    if compression != "stored":  # its baskets carry no checksum
        assert altered == 0


def test_mutants_with_a_manifest_are_always_refused(make_photons: Callable[..., Path]) -> None:
    path = make_photons(num_events=3)
    write_manifest(path)
    original = path.read_bytes()
    rng = np.random.default_rng(12)
    for _ in range(100):
        path.write_bytes(mutate_bytes(original, rng))
        with pytest.raises(UserError, match="its manifest"):
            read(path)

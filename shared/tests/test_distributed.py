import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hep_shared.distributed import init_world

SCRIPT = """
import sys
import numpy as np
import torch
from torch import nn
from hep_shared.distributed import init_world

world = init_world(torch.device("cpu"))
if sys.argv[1] == "fail":
    if world.rank == 1:
        raise RuntimeError("rank 1 breaks")
    world.barrier()  # rank 0 waits for what never comes
torch.manual_seed(world.rank)  # only rank 0's weights count
model = nn.Linear(3, 1)
wrapped = world.wrap(model)
wrapped(torch.arange(12.0).reshape(4, 3)[world.rank :: world.size]).square().mean().backward()
empty = world.rank == 1
norm = nn.BatchNorm1d(2)
norm.running_mean.fill_(world.rank + 1.0)
norm.num_batches_tracked.fill_(world.rank + 5)
world.share_buffers(norm)
result = {
    "weight": model.weight.detach(),
    "gradient": model.weight.grad,
    "any": [world.any(world.rank == 1), world.any(False)],
    "sum": world.sum({"n": world.rank + 1.0}),
    "mean": world.mean({"b": world.rank, "a": 1.0}, weight=1.0 + 2 * world.rank),
    "mean_with_empty_rank": world.mean({"a": float("nan") if empty else 3.0}, weight=0.0 if empty else 5.0),
    "mean_of_nothing": world.mean({"a": 1.0}, weight=0.0),
    "running": world.gather_rows(np.array([[*norm.running_mean, norm.num_batches_tracked]])).tolist(),
    "rows": world.gather_rows(np.full((world.rank + 1, 2), world.rank)).tolist(),
}
if world.is_main:
    torch.save(result, sys.argv[1])
world.barrier()
world.close()
"""


def torchrun(tmp_path: Path, argument: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(script), argument],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_two_ranks_act_as_one(tmp_path) -> None:
    process = torchrun(tmp_path, str(tmp_path / "result.pt"))
    assert process.returncode == 0, process.stderr
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    model(torch.arange(12.0).reshape(4, 3)).square().mean().backward()
    assert torch.equal(result["weight"], model.weight.detach())
    torch.testing.assert_close(result["gradient"], model.weight.grad)
    assert result["any"] == [True, False]
    assert result["sum"] == {"n": 3.0}
    assert result["mean"] == {"a": 1.0, "b": 0.75}
    assert result["mean_with_empty_rank"] == {"a": 3.0}
    assert math.isnan(result["mean_of_nothing"]["a"])
    assert result["running"] == [[1, 1, 5], [1, 1, 5]]
    assert result["rows"] == [[0, 0], [1, 1], [1, 1]]


def test_a_failing_rank_ends_the_job(tmp_path) -> None:
    process = torchrun(tmp_path, "fail")
    assert process.returncode != 0
    assert "rank 1 breaks" in process.stderr


def test_one_process_needs_no_group(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = init_world(torch.device("cpu"))
    model = nn.Linear(1, 1)
    assert world.is_main
    assert world.wrap(model) is model
    assert (world.any(True), world.any(False)) == (True, False)
    assert world.sum({"n": 2.0}) == {"n": 2.0}
    assert world.mean({"a": 0.5}, weight=4.0) == pytest.approx({"a": 0.5})
    rows = np.ones((2, 3))
    assert world.gather_rows(rows) is rows
    world.barrier()
    world.close()
    assert not torch.distributed.is_initialized()

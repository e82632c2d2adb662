import math

import pytest
import torch
from torch.optim import AdamW

from hep_shared.errors import ConfigError
from hep_shared.schedule import cosine_with_warmup


def make_optimizer() -> AdamW:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    return AdamW([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.1}])


def rates(optimizer: AdamW, schedule, num_steps: int) -> list[list[float]]:
    seen = []
    for _ in range(num_steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


def test_known_values() -> None:
    optimizer = make_optimizer()
    schedule = cosine_with_warmup(optimizer, num_warmup_steps=4, num_steps=12, min_ratio=0.2)
    first = [rate for rate, _ in rates(optimizer, schedule, 15)]
    assert first[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert first[6] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert first[8] == pytest.approx(0.6)
    assert first[12:] == pytest.approx([0.2, 0.2, 0.2])  # stays on the floor past the end


def test_groups_keep_their_ratio() -> None:
    optimizer = make_optimizer()
    schedule = cosine_with_warmup(optimizer, num_warmup_steps=2, num_steps=9, min_ratio=0.3)
    for first, second in rates(optimizer, schedule, 12):
        assert second == pytest.approx(0.1 * first)


def test_no_warmup_starts_at_the_full_rate() -> None:
    optimizer = make_optimizer()
    cosine_with_warmup(optimizer, num_warmup_steps=0, num_steps=3)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_resumes_exactly(tmp_path) -> None:
    def build():
        optimizer = make_optimizer()
        return optimizer, cosine_with_warmup(optimizer, num_warmup_steps=3, num_steps=20, min_ratio=0.1)

    optimizer, schedule = build()
    expected = rates(optimizer, schedule, 20)
    optimizer, schedule = build()
    rates(optimizer, schedule, 7)
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer, schedule = build()
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    assert rates(optimizer, schedule, 13) == expected[7:]


@pytest.mark.parametrize(
    ("num_warmup_steps", "min_ratio", "message"),
    [
        (10, 0.0, "takes 10 of 10 optimizer steps"),
        (-1, 0.0, "takes -1 of 10"),
        (1, 1.5, "min_ratio is 1.5"),
        (1, math.nan, "min_ratio is nan"),
    ],
)
def test_refuses_impossible_settings(num_warmup_steps: int, min_ratio: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cosine_with_warmup(
            make_optimizer(), num_warmup_steps=num_warmup_steps, num_steps=10, min_ratio=min_ratio
        )

import numpy as np
import pytest

from fourtop_tokens.physics.hard_process import BEAM_ENERGY, PROCESSES
from fourtop_tokens.physics.les_houches import colours, incoming_flavours, sample

CHARGE = {21: 0, 1: -1, 2: 2, -1: 1, -2: -2, 6: 2, -6: -2, 24: 3, -24: -3, 23: 0, 25: 0}  # in e / 3


def parse(text):
    """Events as lists of rows of numbers, one for each particle."""
    blocks = [block.split("</event>")[0].strip().splitlines() for block in text.split("<event>")[1:]]
    return [np.array([[float(x) for x in line.split()] for line in lines[1:]]) for lines in blocks]


@pytest.mark.parametrize("process", PROCESSES)
def test_events_conserve_momentum_and_charge(process):
    events = parse(sample(process, 40, np.random.default_rng(1)))
    assert len(events) == 40
    for event in events:
        incoming, outgoing = event[:2], event[2:]
        np.testing.assert_allclose(incoming[:, 6:10].sum(0), outgoing[:, 6:10].sum(0), atol=1e-5)
        energy, momentum, mass = outgoing[:, 9], outgoing[:, 6:9], outgoing[:, 10]
        np.testing.assert_allclose(energy**2, (momentum**2).sum(1) + mass**2, rtol=1e-8)
        charges = [sum(CHARGE[int(p)] for p in side[:, 0]) for side in (incoming, outgoing)]
        assert charges[0] == charges[1]
        assert (incoming[:, 9] < BEAM_ENERGY / 2).all()


@pytest.mark.parametrize("process", PROCESSES)
def test_every_line_of_colour_has_two_ends(process):
    for event in parse(sample(process, 20, np.random.default_rng(2))):
        ends = {}
        for index, (colour, anticolour) in enumerate(event[:, 4:6].astype(int)):
            # An incoming colour goes on as an outgoing one; an incoming anticolour ends an outgoing one.
            for tag, is_start in ((colour, index < 2), (anticolour, index >= 2)):
                if tag:
                    ends.setdefault(tag, []).append(is_start)
        assert all(sorted(pair) == [False, True] for pair in ends.values())


def test_colours_differ_from_event_to_event():
    rng = np.random.default_rng(3)
    flows = {tuple(colours([21, 21, 6, -6, 6, -6], rng)) for _ in range(200)}
    assert len(flows) == 8  # two gluons, two tops, two antitops


def test_valence_quarks_come_from_large_momentum_fractions():
    x = np.array([[0.5] * 500, [0.01] * 500])
    flavours = incoming_flavours("qqbar", x, np.random.default_rng(4))
    assert (flavours[:, 0] > 0).mean() > 0.95
    assert (flavours.sum(axis=1) == 0).all()

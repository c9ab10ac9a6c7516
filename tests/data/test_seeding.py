"""Randomness inside a key: what torch itself would draw, and no trace of it afterwards."""

import pytest
import torch

from frostline.data.seeding import seeded, stable_seed


def test_it_draws_what_torchs_own_seeding_would():
    torch.manual_seed(stable_seed(7, "augment", 1, 2))
    expected = torch.rand(5), torch.randn(5), torch.randint(100, (5,))
    with seeded(7, "augment", 1, 2):
        drawn = torch.rand(5), torch.randn(5), torch.randint(100, (5,))
    for one, other in zip(expected, drawn, strict=True):
        assert torch.equal(one, other)


def test_the_generator_is_put_back_after_an_error_too():
    torch.manual_seed(1)
    state = torch.get_rng_state()

    def broken():
        torch.rand(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), seeded(7):
        broken()
    assert torch.equal(torch.get_rng_state(), state)

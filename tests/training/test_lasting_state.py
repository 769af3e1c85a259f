"""What of a model lasts from one evaluation to the next."""

from __future__ import annotations

import pytest
import torch
from model_cases import CASES, CONTEXT, hvq
from torch import nn

from hvqray.models.build import build_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.lasting_state import lasting_state, load_lasting_state, share_state


def make(seed: int, name: str = "hvq-vq-mahalanobis") -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(CASES[name], CONTEXT)
    assert isinstance(model, nn.Module)
    return model


class TwoRanks(SingleProcess):
    """Rank 0 of two, which notes what it was to give to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.world_size = 2
        self.given: list[torch.Tensor] = []

    def broadcast_(self, tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
        assert src == 0
        self.given.append(tensor)
        return tensor


def test_it_is_all_but_what_evaluations_measure() -> None:
    model = make(0)
    lasting = lasting_state(model)
    left_out = model.state_dict().keys() - lasting.keys()
    assert left_out
    assert all(name.startswith("error_map.") for name in left_out)
    assert {name for name, _ in model.named_parameters()} <= lasting.keys()


def test_another_model_goes_on_from_it_with_its_own_measures() -> None:
    one, other = make(0), make(1)
    measured = {name: tensor for name, tensor in other.state_dict().items() if name.startswith("error_map.")}
    for tensor in measured.values():
        tensor.fill_(3)
    load_lasting_state(other, lasting_state(one))
    for name, tensor in other.state_dict().items():
        expected = torch.full_like(tensor, 3) if name in measured else one.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_a_state_of_another_model_is_none_of_it() -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        load_lasting_state(make(0), lasting_state(make(0, "squad-fsq")))


@pytest.mark.parametrize("alone", [True, False])
def test_it_is_what_rank_0_gives_to_the_others(alone: bool) -> None:
    model, ranks = build_model(hvq(), CONTEXT), TwoRanks()
    assert isinstance(model, nn.Module)
    ranks.world_size = 1 if alone else 2
    share_state(model, ranks)
    # The tensors themselves, and no copies: what comes from rank 0 must arrive in the model.
    expected = [] if alone else [tensor.data_ptr() for tensor in lasting_state(model).values()]
    assert [tensor.data_ptr() for tensor in ranks.given] == expected

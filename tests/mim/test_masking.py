"""The law of the masks: published draws, published statistics, bounds, and the same mask anywhere for the same numbers."""

import multiprocessing
import random
from statistics import mean, pstdev

import pytest
import torch

from eva02_det.utils.errors import UserError
from eva02_mim.hidden import hidden_mask, pack_hidden
from eva02_mim.masking import BlockMasks, striped_mask

# random.seed(s) and one call: hidden patches in each row of the grid
PUBLISHED_DRAWS = {
    0: [0, 0, 0, 7, 7, 9, 9, 9, 9, 9, 9, 9, 7, 7, 7, 7],
    1: [0, 3, 3, 3, 3, 3, 4, 12, 12, 12, 12, 10, 12, 9, 6, 0],
    2: [0, 0, 7, 7, 7, 7, 7, 7, 7, 9, 9, 9, 3, 8, 8, 8],
}


@pytest.mark.parametrize("seed", PUBLISHED_DRAWS)
def test_a_seeded_source_gives_the_published_mask(seed: int) -> None:
    mask = BlockMasks().draw_with(random.Random(seed))
    assert mask.view(16, 16).sum(1).tolist() == PUBLISHED_DRAWS[seed]
    assert mask.sum() == {0: 105, 1: 104, 2: 103}[seed]


def test_the_module_random_serves_as_a_source_as_in_the_released_code() -> None:
    state = random.getstate()
    try:
        random.seed(1)
        drawn = BlockMasks().draw_with(random)  # type: ignore[arg-type]
    finally:
        random.setstate(state)
    assert torch.equal(drawn, BlockMasks().draw_with(random.Random(1)))


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """6000 masks, [6000, 256]."""
    masks = BlockMasks()
    return torch.stack([masks.draw(88, 0, index) for index in range(6000)])


def test_counts_follow_the_published_distribution(drawn: torch.Tensor) -> None:
    counts = drawn.sum(1).tolist()
    assert mean(counts) == pytest.approx(104.44, abs=0.06)  # 4 standard errors
    assert pstdev(counts) == pytest.approx(1.04, abs=0.08)
    assert max(counts) == 105
    assert min(counts) >= 90
    assert counts.count(105) / 6000 == pytest.approx(0.65, abs=0.025)
    assert counts.count(104) / 6000 == pytest.approx(0.24, abs=0.025)


def test_the_centre_is_hidden_far_more_often_than_edges_and_corners(drawn: torch.Tensor) -> None:
    frequency = drawn.float().mean(0).view(16, 16)
    assert frequency[7:9, 7:9].mean().item() == pytest.approx(0.75, abs=0.03)
    edges = torch.stack([frequency[0, 7:9], frequency[-1, 7:9], frequency[7:9, 0], frequency[7:9, -1]])
    assert edges.mean().item() == pytest.approx(0.19, abs=0.03)
    assert frequency[[0, 0, -1, -1], [0, -1, 0, -1]].mean().item() == pytest.approx(0.04, abs=0.015)


def test_a_lower_target_lowers_the_mean() -> None:
    masks = BlockMasks(count=103)
    assert mean(int(masks.draw(0, 0, i).sum()) for i in range(2000)) == pytest.approx(102.43, abs=0.12)


def test_every_image_of_every_epoch_has_its_own_mask() -> None:
    masks = BlockMasks()
    places = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1, 11) for index in (0, 1, 11)]
    assert len({tuple(masks.draw(*place).tolist()) for place in places}) == len(places)


def test_another_process_draws_the_same_masks() -> None:
    masks, places = BlockMasks(), [(7, 3, index) for index in range(4)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.starmap(_as_list, [(masks, place) for place in places])
    assert theirs == [masks.draw(*place).tolist() for place in places]


def _as_list(masks: BlockMasks, place: tuple[int, int, int]) -> list[bool]:
    return masks.draw(*place).tolist()


def test_drawing_leaves_the_global_sources_alone() -> None:
    random.seed(3)
    torch.manual_seed(3)
    before = random.getstate(), torch.get_rng_state()
    BlockMasks(exact=True).hidden(0, 0, 0)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_exact_masks_hide_exactly_the_count_and_all_that_the_blocks_hid() -> None:
    for index in range(300):
        blocks, exact = (BlockMasks(exact=exact).draw(5, 0, index) for exact in (False, True))
        assert exact.sum() == 105
        assert not (blocks & ~exact).any()


@pytest.mark.parametrize("exact", [False, True])
def test_index_arrays_name_the_patches_of_the_mask(exact: bool) -> None:
    masks = BlockMasks(exact=exact)
    for index in range(50):
        hidden = masks.hidden(1, 2, index)
        assert hidden.index.shape == hidden.weight.shape == (105,)
        assert torch.equal(hidden_mask(hidden, 256), masks.draw(1, 2, index))


def test_other_grids_and_counts_stay_within_their_bounds() -> None:
    masks = BlockMasks(grid=4, count=6, min_block=2)
    counts = [int(masks.draw(0, 0, index).sum()) for index in range(200)]
    assert 0 < min(counts) <= max(counts) == 6
    assert masks.draw(0, 0, 0).shape == (16,)
    odd = BlockMasks(grid=7, count=20, min_block=4)
    assert odd.draw(0, 0, 0).shape == (49,)


def test_the_validation_mask_hides_every_second_column() -> None:
    mask = striped_mask(16)
    assert mask.view(16, 16)[:, ::2].all()
    assert not mask.view(16, 16)[:, 1::2].any()
    assert pack_hidden(mask).index.tolist() == list(range(0, 256, 2))


@pytest.mark.parametrize(
    ("options", "part"), [({"count": 300}, "do not fit a grid of 16 x 16"), ({"aspect": (2, 1)}, "smaller first")]
)
def test_impossible_settings_are_refused_in_one_sentence(options: dict, part: str) -> None:
    with pytest.raises(UserError, match=part):
        BlockMasks(**options)

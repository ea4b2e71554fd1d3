"""Mixtures: shares, names and the config of Merged-38M."""

from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from configs.common.mim_data import MERGED_38M, imagenet_21k, merged_38m
from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source
from eva02_mim.mixture import Mixture
from tests.utils.image_files import joined, small_loader, take, write_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """20, 4 and 8 images, all different."""
    for first, count in ((0, 20), (100, 4), (200, 8)):
        write_images(tmp_path / str(first), count, first=first)
    return [open_source(tmp_path / name) for name in ("0", "100", "200")]


def test_a_mixture_numbers_the_images_of_its_sources_one_after_the_other(sources: list[Source]):
    mixture = Mixture(sources)
    assert (len(mixture), mixture.sizes, mixture.quotas) == (32, (20, 4, 8), (20, 4, 8))
    expected = [(source[i], source.name(i)) for source in sources for i in range(len(source))]
    assert [(mixture[i], mixture.name(i)) for i in range(32)] == expected


def test_without_weights_an_epoch_holds_every_image_once(sources: list[Source]):
    assert sorted(joined(take(small_loader(Mixture(sources)), 8))["sample"].tolist()) == list(range(32))


def test_weights_are_the_shares_of_an_epoch(sources: list[Source]):
    mixture = Mixture(sources, weights=[1, 2, 1], epoch_images=40)
    assert mixture.quotas == (10, 20, 10)
    for _ in range(2):
        samples = joined(take(small_loader(mixture), 10))["sample"]
        assert [int(((samples >= a) & (samples < b)).sum()) for a, b in ((0, 20), (20, 24), (24, 32))] == [10, 20, 10]


@pytest.mark.parametrize(
    ("weights", "total", "quotas"),
    [([1, 1, 1], 32, (11, 11, 10)), ([0.5, 0.25, 0.25], 33, (17, 8, 8)), ([5, 1, 4], None, (16, 3, 13))],
)
def test_shares_are_whole_numbers_that_add_up(sources: list[Source], weights: list[float], total: int, quotas: tuple[int, ...]):
    mixture = Mixture(sources, weights, total)
    assert mixture.quotas == quotas
    assert sum(mixture.quotas) == (total or 32)


def test_the_digest_depends_on_sources_their_order_and_weights(sources: list[Source]):
    mixtures = [Mixture(sources), Mixture(sources[::-1]), Mixture(sources, [1, 2, 1]), Mixture(sources, [2, 1, 1])]
    assert len({mixture.digest for mixture in mixtures}) == 4


@pytest.mark.parametrize(
    ("weights", "total", "said"),
    [
        ([1, 2], None, "must be one positive number for each of its 3 sources"),
        ([1, 0, 2], None, "must be one positive number"),
        ([1, 1e-6, 1], None, "raise epoch_images"),
        (None, 100, "epoch_images of a mixture goes with weights"),
    ],
)
def test_weights_that_cannot_be_are_one_sentence(
    sources: list[Source], weights: list[float] | None, total: int | None, said: str
):
    with pytest.raises(UserError, match=said):
        Mixture(sources, weights, total)


def test_a_mixture_of_nothing_is_one_sentence():
    with pytest.raises(UserError, match="at least one source"):
        Mixture([])


def test_merged_38m_is_seven_sources_of_public_sizes():
    assert list(MERGED_38M) == ["IN-21K", "CC12M", "CC3M", "COCO", "ADE20K", "Objects365", "OpenImages"]
    assert (MERGED_38M["COCO"].images, MERGED_38M["ADE20K"].images) == (118_287, 20_210)
    # the lists of addresses are upper bounds: without their dead links the total is the published 38 M
    assert 38e6 < sum(source.images for source in MERGED_38M.values()) < 42e6
    assert len(OmegaConf.to_container(merged_38m(), resolve=True)["sources"]) == 7


@pytest.mark.parametrize("published", [False, True])
def test_merged_38m_opens_in_its_published_layout(tmp_path: Path, published: bool, caplog: pytest.LogCaptureFixture):
    for place, source in enumerate(MERGED_38M.values()):
        write_images(tmp_path / "Merged-38M" / source.folder, 2 + place, first=10 * place)
    options = {"published_weights": True, "epoch_images": 10_000} if published else {}
    mixture = instantiate(merged_38m(str(tmp_path / "Merged-38M"), **options))
    assert mixture.sizes == (2, 3, 4, 5, 6, 7, 8)
    if published:
        total = sum(source.images for source in MERGED_38M.values())
        shares = [quota / 10_000 for quota in mixture.quotas]
        assert shares == pytest.approx([source.images / total for source in MERGED_38M.values()], abs=1e-4)
    else:
        assert mixture.quotas == mixture.sizes
    assert "holds 5 images, published are 118287" in caplog.text
    assert len(take(small_loader(mixture), 5)) == 5


def test_sources_of_recipes_lie_in_the_folder_of_the_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_images(tmp_path / "imagenet-21k", 4)
    assert len(instantiate(imagenet_21k())) == 4
    assert imagenet_21k("s3://bucket/in21k-{0000..1023}.tar").spec == "s3://bucket/in21k-{0000..1023}.tar"
    assert imagenet_21k("/data/in21k").spec == "/data/in21k"

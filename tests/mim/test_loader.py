"""The training loader: the same batches from any processes and after any break, and what becomes of broken images."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source
from eva02_mim.crops import CentreCrop, RandomCrop, decode
from eva02_mim.loader import mim_loader, validation_loader
from eva02_mim.masking import BlockMasks
from eva02_mim.mixture import Mixture
from tests.utils.image_files import MASKS, SMALL, joined, same, small_loader, take, write_images

COUNT = 30  # 7 whole batches of 4 in an epoch, 2 images left out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", COUNT)
    return tmp_path / "images"


@pytest.fixture
def source(root: Path) -> Source:
    return open_source(root)


def test_a_batch_holds_crops_masks_and_the_numbers_of_its_images(source: Source):
    loader = small_loader(source)
    (batch,) = take(loader, 1)
    assert (batch["images"].dtype, batch["images"].shape) == (torch.uint8, (4, 3, 56, 56))
    assert (batch["index"].dtype, batch["index"].shape) == (torch.int64, (4, 6))
    assert (batch["weight"].dtype, batch["weight"].shape) == (torch.float32, (4, 6))
    assert (batch["sample"].dtype, batch["sample"].shape) == (torch.int64, (4,))
    assert (loader.steps_per_epoch, loader.images_per_epoch) == (7, 30)


def test_crop_and_mask_of_an_image_depend_on_seed_visit_and_number_alone(source: Source):
    for batch in take(small_loader(source, seed=11, workers=2), 10):
        for place, (sample, visit) in enumerate(zip(batch["sample"].tolist(), batch["visit"].tolist())):
            rng = random.Random(key_of("crop", 11, visit, sample))
            expected = RandomCrop()(decode(source[sample]), 56, rng)
            assert np.array_equal(batch["images"][place].permute(1, 2, 0).numpy(), expected)
            index, weight = MASKS.hidden(11, visit, sample)
            assert torch.equal(batch["index"][place], index)
            assert torch.equal(batch["weight"][place], weight)


def test_epochs_show_other_crops_masks_and_orders(source: Source):
    loader = small_loader(source)
    epochs = [joined(take(loader, 7)) for _ in range(2)]
    first, second = ({int(s): i for i, s in enumerate(epoch["sample"])} for epoch in epochs)
    both = first.keys() & second.keys()
    assert len(both) > 20
    assert not torch.equal(epochs[0]["sample"], epochs[1]["sample"])
    assert all(not torch.equal(epochs[0]["images"][first[s]], epochs[1]["images"][second[s]]) for s in both)
    assert any(not torch.equal(epochs[0]["index"][first[s]], epochs[1]["index"][second[s]]) for s in both)


def test_an_epoch_holds_no_image_twice_and_leaves_out_what_fills_no_batch(source: Source):
    batches = take(small_loader(source), 14)
    for epoch, part in enumerate((batches[:7], batches[7:])):
        whole = joined(part)
        assert len(whole["sample"].unique()) == 28
        assert (whole["visit"] == epoch).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(source: Source, workers: int):
    assert same(take(small_loader(source, workers=workers), 17), take(small_loader(source), 17))


def test_global_random_states_neither_matter_nor_are_touched(source: Source):
    expected = take(small_loader(source), 3)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(take(small_loader(source), 3), expected)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[2]
    take(small_loader(source, workers=1), 3)
    assert (random.getstate(), np.random.get_state()[2]) == (states[0], states[2])  # nor are they consumed
    assert torch.equal(torch.get_rng_state(), states[1])


def test_a_loader_used_in_this_process_serves_forked_ones_too(source: Source):
    loader = small_loader(source)
    first = take(loader, 2)
    loader.workers = 2
    assert same(first + take(loader, 2), take(small_loader(source), 4))


def test_workers_that_inherit_nothing_make_the_same_batches(source: Source):
    script = (
        "import multiprocessing, sys, torch\n"
        "from tests.utils.image_files import small_loader, take\n"
        "from eva02_det.utils.sources.files import open_source\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    batches = take(small_loader(open_source(sys.argv[1]), workers=1), 3)\n"
        "    torch.save(batches, sys.argv[2])\n"
    )
    root = Path(source.name(0)).parents[1]
    file, out = root.parent / "run.py", root.parent / "batches.pt"
    file.write_text(script)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(file), str(root), str(out)], check=True, env=env)
    assert same(torch.load(out), take(small_loader(source), 3))


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (4, 1)])
def test_several_ranks_share_what_one_rank_reads_with_the_whole_batch(source: Source, world: int, workers: int):
    whole = take(small_loader(source, batch_size=8), 7)
    parts = [take(small_loader(source, batch_size=8 // world, rank=r, world=world, workers=workers), 7) for r in range(world)]
    assert same([joined(list(step)) for step in zip(*parts)], whole)


@pytest.mark.parametrize("done", [0, 3, 6, 7, 12])
@pytest.mark.parametrize("workers", [(0, 0), (2, 1)])
def test_a_run_that_was_broken_off_goes_on_with_the_very_next_batch(source: Source, done: int, workers: tuple[int, int]):
    expected = take(small_loader(source), 16)
    begun = small_loader(source, workers=workers[0])
    assert same(take(begun, done) if done else [], expected[:done])
    saved = json.loads(json.dumps(begun.state_dict()))  # as it is after a way through a file
    resumed = small_loader(source, workers=workers[1])
    resumed.load_state_dict(saved)
    assert same(take(resumed, 16 - done), expected[done:])


def test_a_loader_asked_again_goes_on_where_it_stopped(source: Source):
    loader = small_loader(source, workers=2)
    assert same(take(loader, 3) + take(loader, 3), take(small_loader(source), 6))


def test_a_run_goes_on_with_other_ranks_and_batch_sizes_at_the_same_image(source: Source):
    begun = small_loader(source, batch_size=8)
    seen = joined(take(begun, 2))["sample"]
    parts = [small_loader(source, batch_size=3, rank=r, world=2) for r in range(2)]
    for part in parts:
        part.load_state_dict(begun.state_dict())
    rest = torch.cat([joined(take(part, 2))["sample"] for part in parts])  # 16 + 2 x 6 = 28 of 30 images
    assert len(torch.cat([seen, rest]).unique()) == 28
    assert parts[0].epoch == 0
    take(parts[0], 1)
    assert (parts[0].epoch, parts[0].offset) == (1, 6)


def test_a_saved_place_for_other_data_or_another_seed_is_refused(source: Source, root: Path):
    state = small_loader(source).state_dict()
    with pytest.raises(UserError, match="the seed was 5 and is 6; resume with the same data and seed"):
        small_loader(source, seed=6).load_state_dict(state)
    (root / "class0" / "0000.jpg").rename(root / "class0" / "zero.jpg")
    with pytest.raises(UserError, match=r"the list of images was .* and is"):
        small_loader(open_source(root)).load_state_dict(state)
    write_images(root, 1, first=100)
    with pytest.raises(UserError, match="the number of images was 30 and is 31"):
        small_loader(open_source(root)).load_state_dict(state)


def test_fixed_crops_stay_the_same_over_the_epochs_and_masks_do_not(source: Source):
    loader = small_loader(source, fixed_crops=True)
    epochs = [joined(take(loader, 7)) for _ in range(2)]
    first, second = ({int(s): i for i, s in enumerate(epoch["sample"])} for epoch in epochs)
    both = first.keys() & second.keys()
    assert all(torch.equal(epochs[0]["images"][first[s]], epochs[1]["images"][second[s]]) for s in both)
    assert any(not torch.equal(epochs[0]["index"][first[s]], epochs[1]["index"][second[s]]) for s in both)


def test_a_weighted_mixture_resumes_in_the_middle_of_a_pass(tmp_path: Path, source: Source):
    write_images(tmp_path / "few", 5, first=200)
    mixture = Mixture([source, open_source(tmp_path / "few")], weights=[1, 1], epoch_images=24)
    begun = small_loader(mixture)
    expected = take(small_loader(mixture, workers=2), 12)
    take(begun, 4)
    resumed = small_loader(mixture)
    resumed.load_state_dict(begun.state_dict())
    assert same(take(resumed, 8), expected[4:])
    whole = joined(expected[:6])
    assert (whole["sample"] >= COUNT).sum() == 12
    assert whole["visit"].max() == 2  # 12 images of 5: two whole passes and a part of the third
    pairs = set(zip(whole["sample"].tolist(), whole["visit"].tolist()))
    assert len(pairs) == 24


BREAKS = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"<html>404</html>",
    "header": lambda content: b"\xff\xd8\xff\xe0" + b"\0" * 40,
}


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_counted_and_named_and_change_nothing_else(
    source: Source, root: Path, workers: int, caplog: pytest.LogCaptureFixture
):
    intact = take(small_loader(source), 7)
    order = joined(intact)["sample"].tolist()
    broken = sorted(set(order) - {29, 0})[::6][:4]
    for number, change in zip(broken, BREAKS.values()):
        path = Path(source.name(number))
        path.write_bytes(change(path.read_bytes()))
    gone = order[-1] if order[-1] not in broken else order[-2]
    Path(source.name(gone)).unlink()
    loader = small_loader(source, workers=workers)
    batches = joined(take(loader, 7))
    for place, sample in enumerate(order):
        untouched = sample not in [*broken, gone]
        assert torch.equal(batches["images"][place], joined(intact)["images"][place]) == untouched
    assert batches["sample"].tolist() == order
    assert loader.broken.count == 5
    assert loader.broken.seen == 28
    for number in [*broken, gone]:
        (text,) = [text for text in loader.broken.first if text.startswith(source.name(number))]
        assert text in caplog.text
    assert "FileNotFoundError" in " ".join(loader.broken.first)


def test_a_broken_image_is_replaced_by_the_next_readable_one_cropped_as_its_own(source: Source):
    for number in (10, 11):
        Path(source.name(number)).write_bytes(b"")
    whole = joined(take(small_loader(source), 7))
    for number in (10, 11):
        place = whole["sample"].tolist().index(number)
        expected = RandomCrop()(decode(source[12]), 56, random.Random(key_of("crop", 5, 0, number)))
        assert np.array_equal(whole["images"][place].permute(1, 2, 0).numpy(), expected)


def test_the_account_of_broken_images_goes_on_after_a_resume(source: Source):
    Path(source.name(4)).write_bytes(b"")
    begun = small_loader(source)
    take(begun, 14)
    resumed = small_loader(source)
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert resumed.broken == begun.broken
    take(resumed, 7)
    assert resumed.broken.seen == 84
    assert 2 <= resumed.broken.count <= 3  # once an epoch, unless it is among the images left out
    assert len(resumed.broken.first) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_stop_the_run_with_a_sentence(source: Source, workers: int):
    for number in range(0, COUNT, 2):
        Path(source.name(number)).write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        take(small_loader(source, workers=workers), 7)
    assert "11 of " in str(caught.value)  # one per cent of a thousand images are allowed
    assert "UnidentifiedImageError" in str(caught.value)
    assert "more than max_broken=0.01" in str(caught.value)
    assert len(take(small_loader(source, workers=workers, max_broken=1.0), 7)) == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_broken_images_alone_stops_the_run_with_a_sentence(source: Source, workers: int):
    for number in range(COUNT):
        Path(source.name(number)).write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"^more than 100 images in a row cannot be read, the last /[^\n]*$"):
        take(small_loader(source, workers=workers), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_shows_every_image_once_whole_in_the_middle_and_striped(source: Source, workers: int):
    loaders = [validation_loader(source, batch_size=4, rank=r, world=2, workers=workers, **SMALL) for r in range(2)]
    assert [len(loader) for loader in loaders] == [4, 4]
    for _ in range(2):  # a second pass is the same
        batches = [batch for loader in loaders for batch in loader]
        whole = joined(batches)
        assert sorted(whole["sample"].tolist()) == list(range(COUNT))
        assert (whole["index"] == torch.tensor([0, 2, 4, 6, 8, 10, 12, 14])).all()
        assert (whole["weight"] == 1).all()
        for place, sample in enumerate(whole["sample"].tolist()):
            expected = CentreCrop()(decode(source[sample]), 56, random.Random(0))
            assert np.array_equal(whole["images"][place].permute(1, 2, 0).numpy(), expected)


def test_validation_counts_and_leaves_out_what_it_cannot_read(source: Source):
    for number in (1, 2, 3, 4, 5):
        Path(source.name(number)).write_bytes(b"")
    loader = validation_loader(source, batch_size=4, **SMALL)
    for _ in range(2):
        sizes = [len(batch["sample"]) for batch in loader]
        assert sizes == [1, 2, 4, 4, 4, 4, 4, 2]
        assert (loader.broken.count, loader.broken.seen) == (5, 30)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"image_size": 225}, "image_size=225 is no multiple of patch_size=14; for example 224 is"),
        ({"image_size": 0}, "image_size=0 is no multiple"),
        ({"image_size": 256, "patch_size": 16, "masks": BlockMasks(grid=14, count=80)}, "set the grid of the masks to 16"),
        ({"batch_size": 31}, "an epoch of 30 images does not fill one batch of 31 x 1 processes; lower the batch size"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(source: Source, sizes: dict[str, object], said: str):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        mim_loader(source, **{"batch_size": 4, "masks": BlockMasks(), **sizes})
    assert said in str(caught.value)
    if set(sizes) == {"image_size"}:
        with pytest.raises(UserError, match="is no multiple of patch_size"):
            validation_loader(source, batch_size=4, **sizes)

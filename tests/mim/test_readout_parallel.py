"""Two processes score and read out what one does; started once, since that takes longer than what they do."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm

from eva02_det.utils.errors import UserError
from eva02_mim.crops import RandomCrop
from eva02_mim.features import Extraction, features_of
from eva02_mim.imagenet import class_ids, rows_of_subset
from eva02_mim.labelled import class_folder
from eva02_mim.readout import EncoderTokens, Network, Readout
from eva02_mim.variants import evaluate_variant
from tests.mim.known_answers import PIXELS, KnownLogits, noisy_logits, write_classes
from tests.mim.small_student import small_student
from tests.utils.image_files import write_images

IDS = sorted(rows_of_subset("a"))
EACH = 2

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def score(folder: Path, batch_size: int) -> dict[str, float]:
    table = noisy_logits([class_ids().index(name) for name in IDS for _ in range(EACH)])
    return evaluate_variant(KnownLogits(table), "a", folder, image_size=PIXELS, batch_size=batch_size)


def read_out(folder: Path, kept: Path, batch_size: int) -> None:
    """Features of three crops of each image, to `kept`."""
    student = small_student()
    network = Network(EncoderTokens(student), torch.nn.Identity(), 1, True, student.embed_dim, student.image_size)
    how = Extraction(RandomCrop(), torch.device("cpu"), visits=3, batch_size=batch_size)
    features_of(Readout(network, {}), class_folder(folder), kept, how)


def in_two(root: Path) -> None:
    torch.set_num_threads(1)
    found: list[object] = [score(root / "whole", 9)]
    for work in (lambda: score(root / "broken", 64), lambda: read_out(root / "broken", root / "of broken", 64)):
        try:
            work()
        except UserError as error:
            found.append(str(error))
    read_out(root / "images", root / "of two", 2)
    (root / f"{comm.get_rank()}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What two processes left."""
    root = tmp_path_factory.mktemp("two")
    write_images(root / "images", 7)
    for folder in ("whole", "broken"):
        write_classes(root / folder, IDS, each=EACH)
    (root / "whole" / IDS[0] / "00000.png").unlink()  # 399 images: no equal shares
    (root / "broken" / IDS[-1] / "00399.png").write_bytes(b"no image")  # in the share of the second process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVA02_MIM_CACHE", str(root / "index"))
        launch(in_two, 2, dist_url="auto", args=(root,))
        yield root


def test_two_processes_count_each_image_once_and_both_know_the_score(root: Path):
    expected = score(root / "whole", 64)
    assert expected["images"] == EACH * 200 - 1
    assert 0 < expected["top1"] < expected["top5"] < 100
    for rank in range(2):
        assert json.loads((root / f"{rank}.json").read_text())[0] == expected


def test_an_image_that_one_process_cannot_read_stops_both_with_its_name(root: Path):
    for rank in range(2):
        sentences = json.loads((root / f"{rank}.json").read_text())[1:]
        assert len(sentences) == 2, "scores, features"
        assert all("00399.png cannot be read" in sentence for sentence in sentences)
    assert not (root / "of broken" / "about.json").exists()


def test_two_processes_fill_one_file_of_features(root: Path):
    read_out(root / "images", root / "of one", 7)
    one, two = (np.load(root / kept / "features.npy") for kept in ("of one", "of two"))
    assert one.shape == (21, 32)
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert (root / "of one" / "about.json").read_text() == (root / "of two" / "about.json").read_text()

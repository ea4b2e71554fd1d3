"""Class weights of the federated loss as a record."""

from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from eva02_det.data.federated import FederatedClassWeights
from eva02_det.data.registration import load_dataset
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco


@pytest.fixture
def data_set() -> str:
    # out of order on purpose: class k of the loss is the k-th id
    MetadataCatalog.get("three_classes").set(class_image_count=[{"id": 7, "image_count": 9}, {"id": 2, "image_count": 4}])
    return "three_classes"


def test_weights_are_image_counts_to_the_power_in_order_of_the_ids(data_set: str) -> None:
    torch.testing.assert_close(FederatedClassWeights(data_set)(), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(FederatedClassWeights(data_set, freq_weight_power=1.0)(), torch.tensor([4.0, 9.0]))


def test_a_file_of_another_number_of_classes_than_the_model_is_refused_by_both_numbers(data_set: str) -> None:
    assert len(FederatedClassWeights(data_set, num_classes=2)()) == 2
    with pytest.raises(UserError, match="has 2 classes, but the model has 1203"):
        FederatedClassWeights(data_set, num_classes=1203)()


def test_a_model_that_is_only_counted_needs_no_annotation_file() -> None:
    with torch.device("meta"):
        assert FederatedClassWeights("not there", num_classes=1203)().shape == (1203,)


def test_a_data_set_that_states_no_counts_is_counted(root: Path) -> None:
    tiny_coco.write(root, "train", tiny_coco.content())
    load_dataset("tiny_train")
    assert torch.equal(FederatedClassWeights("tiny_train", 1.0)(), torch.tensor([3.0, 3.0]))


def test_an_unknown_data_set_and_an_absent_file_are_named(root: Path) -> None:
    with pytest.raises(UserError, match="'nothing'"):
        FederatedClassWeights("nothing")()
    with pytest.raises(UserError, match=r"lvis_v1_train\.json"):
        FederatedClassWeights("lvis_v1_train")()


def test_a_list_of_one_data_set_is_that_data_set(data_set: str) -> None:
    assert torch.equal(FederatedClassWeights([data_set])(), FederatedClassWeights(data_set)())


def test_two_records_of_the_same_weights_are_equal(data_set: str) -> None:
    assert FederatedClassWeights(data_set, 0.5) == FederatedClassWeights(data_set)

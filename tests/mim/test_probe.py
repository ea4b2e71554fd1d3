"""The linear head is at its optimum, the neighbours are the nearest, and kept features are those of what was asked for."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.crops import RandomCrop
from eva02_mim.export import export_student
from eva02_mim.features import Extraction, features_of
from eva02_mim.labelled import ClassFolder, EvaluationCrop, class_folder
from eva02_mim.linear import LinearSolver, held_out_images
from eva02_mim.neighbours import NearestNeighbours
from eva02_mim.readout import NORMS, Readout, load_readout, read_student
from eva02_mim.student import MimStudent
from tests.mim.small_student import randomise, small_student
from tests.utils.image_files import write_images

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "index"))


def clouds(images: int, *, width: int = 12, classes: int = 5, seed: int = 0, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds of points, one for each class, in features of very different scale and mean: [M, W], [M]."""
    draw = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width))
    points = centres[labels] + draw.normal(size=(images, width)) * noise
    scales = 10.0 ** np.linspace(-2, 2, width)
    return ((points + 3) * scales).astype(np.float32), labels


def reference(features: np.ndarray, labels: np.ndarray, l2: float, classes: int) -> tuple[np.ndarray, float]:
    """(logits of the optimum, its objective) by Newton's method in float64, with all images and all second derivatives."""
    x = torch.from_numpy(features.astype(np.float64))
    x = torch.cat(((x - x.mean(0)) / x.std(0, correction=0), torch.ones(len(x), 1, dtype=x.dtype)), 1)

    def objective(flat: Tensor) -> Tensor:
        solution = flat.view(classes, -1)
        return F.cross_entropy(x @ solution.T, torch.from_numpy(labels)) + l2 / 2 * solution[:, :-1].square().sum()

    point = torch.zeros(classes * x.shape[1], dtype=x.dtype)
    for _ in range(30):
        gradient, curvature = torch.func.grad(objective)(point), torch.func.hessian(objective)(point)
        step = torch.linalg.pinv(curvature, hermitian=True, rtol=1e-12) @ gradient  # a shift of all biases changes nothing
        while objective(point - step) > objective(point):
            step = step / 2
        point = point - step
    assert torch.func.grad(objective)(point).abs().max() < 1e-12
    return (x @ point.view(classes, -1).T).numpy(), float(objective(point))


@pytest.mark.parametrize(("precision", "tolerance", "error"), [("fp32", 1e-4, 5e-3), ("fp64", 1e-8, 1e-5)])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_head_is_the_optimum_that_an_independent_solver_finds(l2: float, precision: str, tolerance: float, error: float):
    features, labels = clouds(400)
    head = LinearSolver([l2], tolerance=tolerance, precision=precision)(features, labels, 400, 5, CPU)
    logits, objective = reference(features, labels, l2, 5)
    ours = head.logits(torch.from_numpy(features))
    ours, logits = (scores - scores.mean(1, keepdims=True) for scores in (ours.numpy(), logits))  # a shift of all is free
    np.testing.assert_allclose(ours, logits, atol=error)
    spread = features.astype(np.float64).std(0)
    penalty = l2 / 2 * ((head.weight.numpy() * spread) ** 2).sum()
    loss = float(F.cross_entropy(torch.from_numpy(ours), torch.from_numpy(labels))) + penalty
    assert objective - 1e-9 <= loss <= objective + 1e-7
    assert head.gradient <= tolerance


def test_features_that_say_nearly_the_same_take_no_more_than_a_few_dozen_iterations():
    """Variances along the axes from 1 to 1e-6, as a network's features have them; without turning it takes hundreds."""
    draw = np.random.default_rng(3)
    labels = np.arange(600) % 5
    points = draw.normal(size=(5, 40))[labels] * 0.5 + draw.normal(size=(600, 40))
    mixed = (points * np.logspace(0, -3, 40)) @ np.linalg.qr(draw.normal(size=(40, 40)))[0]
    head = LinearSolver([1e-6], precision="fp64")(mixed.astype(np.float32), labels, 600, 5, CPU)
    assert head.gradient <= 1e-3
    assert head.iterations <= 60


def test_the_solution_does_not_depend_on_the_order_of_images_nor_on_the_units_of_features():
    features, labels = clouds(300)
    solver = LinearSolver([1e-2], tolerance=1e-6, precision="fp64")
    order = np.random.default_rng(1).permutation(300)
    one = solver(features, labels, 300, 5, CPU).logits(torch.from_numpy(features))
    other = solver(features[order], labels[order], 300, 5, CPU).logits(torch.from_numpy(features))
    in_other_units = solver(features * 8 + 16, labels, 300, 5, CPU).logits(torch.from_numpy(features * 8 + 16))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    torch.testing.assert_close(one, in_other_units, rtol=0, atol=1e-3)


def test_many_chunks_are_one_problem(monkeypatch: pytest.MonkeyPatch):
    features, labels = clouds(230)
    solver = LinearSolver([1e-2, 1e-3], tolerance=1e-6, precision="fp64")
    whole = solver(features, labels, 230, 5, CPU)
    monkeypatch.setattr("eva02_mim.linear.CHUNK", 32)
    parts = solver(features, labels, 230, 5, CPU)
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-3, atol=1e-6)
    assert whole.l2 == parts.l2


def test_the_chosen_strength_is_the_best_on_the_images_held_out(caplog: pytest.LogCaptureFixture):
    features, labels = clouds(150, width=60, noise=4)
    tried = (3.0, 1e-1, 1e-2, 1e-6)
    head = LinearSolver(tried, held_out=0.3, seed=4)(features, labels, 150, 5, CPU)
    held = held_out_images(labels, 0.3, 4)
    spread, mean = features.std(0), features.mean(0)
    scores = {}
    for l2 in tried:
        part = LinearSolver([l2])(
            np.ascontiguousarray(((features - mean) / spread)[~held]), labels[~held], int((~held).sum()), 5, CPU
        )
        best = part.logits(torch.from_numpy(((features - mean) / spread)[held])).argmax(1).numpy()
        scores[l2] = (best == labels[held]).mean()
    assert len(set(scores.values())) > 1, "strengths that score alike prove nothing"
    assert scores[head.l2] >= max(scores.values()) - 1 / held.sum(), "standardised on another part, one image may differ"
    again = LinearSolver([head.l2])(features, labels, 150, 5, CPU)
    torch.testing.assert_close(head.weight * torch.from_numpy(spread), again.weight * torch.from_numpy(spread), rtol=0, atol=1e-2)


def test_some_of_every_class_is_held_out_and_never_all_of_it():
    labels = np.repeat([0, 1, 2, 3], [40, 3, 2, 1])
    held = held_out_images(labels, 0.1, 0)
    assert [int(held[labels == label].sum()) for label in range(4)] == [4, 1, 1, 0]
    assert (held != held_out_images(labels, 0.1, 1)).any()
    assert held_out_images(labels, 0.9, 0)[labels == 2].sum() == 1


def test_all_visits_of_a_held_out_image_are_held_out():
    """Random labels cannot be learnt: they would be, if another crop of a held-out image were in the other part."""
    draw = np.random.default_rng(0)
    images = draw.normal(size=(200, 300)).astype(np.float32)
    labels = draw.integers(0, 4, 200)
    visits = np.concatenate([images + 0.01 * draw.normal(size=images.shape).astype(np.float32) for _ in range(3)])
    held = held_out_images(labels, 0.1, 0)
    scored: list[float] = []
    logger = logging.getLogger("eva02_mim.linear")
    handler = logging.Handler()
    handler.emit = lambda record: scored.append(record.args[1]) if "held-out" in record.msg else None
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    LinearSolver([1.0, 1e-2])(visits, np.tile(labels, 3), 200, 4, CPU)
    logger.removeHandler(handler)
    logger.setLevel(level)
    assert len(scored) == 2
    assert max(scored) < 70, f"{held.sum()} images of four random classes"


def test_an_unfinished_head_and_a_strength_at_the_end_are_said(caplog: pytest.LogCaptureFixture):
    features, labels = clouds(100)
    with caplog.at_level(logging.WARNING, "eva02_mim"):
        LinearSolver([10.0, 1e-1])(features, labels, 100, 5, CPU)
        LinearSolver([1e-2], max_iterations=10)(features, labels, 100, 5, CPU)
        easy, labels = clouds(100, noise=0.01)
        LinearSolver([1e-1, 1e-2])(easy, labels, 100, 5, CPU)  # all strengths score alike: no other would do better
    assert caplog.text.count("is at the end of those tried; widen solver.l2") == 1
    assert "not at its optimum after 10 iterations" in caplog.text


def test_neighbours_vote_as_in_the_definition():
    train, train_labels = clouds(170, classes=7)
    features, labels = clouds(60, classes=7, seed=5)
    found = NearestNeighbours(k=9, temperature=0.2)(train, train_labels, features, labels, 7, CPU)
    unit, keys = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (features, train))
    top1 = top5 = 0
    for query, label in zip(unit, labels):
        similarity = keys @ query
        votes = dict.fromkeys(range(7), 0.0)
        for near in np.argsort(-similarity)[:9]:
            votes[int(train_labels[near])] += np.exp(similarity[near] / 0.2)
        ranked = sorted((-vote, one) for one, vote in votes.items() if vote)
        top1 += ranked[0][1] == label
        top5 += label in [one for _, one in ranked[:5]]
    assert found == pytest.approx({"top1": 100 * top1 / 60, "top5": 100 * top5 / 60})
    assert 20 < found["top1"] < found["top5"] < 100


def test_training_images_in_chunks_have_the_same_nearest(monkeypatch: pytest.MonkeyPatch):
    arguments = (*clouds(170, classes=7), *clouds(60, classes=7, seed=5), 7, CPU)
    whole = NearestNeighbours()(*arguments)
    monkeypatch.setattr("eva02_mim.neighbours.CHUNK", 16)
    monkeypatch.setattr("eva02_mim.neighbours.QUERIES", 7)
    assert NearestNeighbours()(*arguments) == whole


def saved(student: MimStudent, file: Path) -> Path:
    torch.save({"model": student.state_dict(), "step": 1}, file)
    return file


def pictures(count: int = 3, side: int = 56) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sub_ln", [True, False], ids=["sub-LN", "packed"])
def test_a_folder_and_a_checkpoint_of_a_student_give_the_mean_of_its_patches(sub_ln: bool, tmp_path: Path):
    student = small_student(sub_ln=sub_ln).eval()
    file = saved(student, tmp_path / "checkpoint_0000001.pt")
    export_student(file, tmp_path / "folder", num_heads=2)
    from_file, from_folder = load_readout(file, num_heads=2), load_readout(tmp_path / "folder")
    with torch.no_grad():
        expected = student.encode(from_file.normalise(pictures()))
    for readout in (from_file, from_folder):
        torch.testing.assert_close(readout(pictures()), expected[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(load_readout(file, num_heads=2, pool="class")(pictures()), expected[:, 0], rtol=0, atol=1e-5)


def test_a_converted_file_is_read_with_the_angles_of_pre_training(tmp_path: Path):
    student = small_student(image_size=224)
    export_student(saved(student, tmp_path / "checkpoint_0000001.pt"), tmp_path / "p14to16.pt", layout="p14to16")
    encoder = read_student(tmp_path / "p14to16.pt", num_heads=2)
    assert (encoder.grid, encoder.positions.rotary_grid, encoder.image_size) == (14, 16, 224)


def test_larger_images_stretch_the_positions_and_keep_the_span_of_the_angles(tmp_path: Path):
    student = small_student()
    file = saved(student, tmp_path / "checkpoint_0000001.pt")
    encoder = read_student(file, image_size=112, num_heads=2)
    assert (encoder.grid, encoder.positions.rotary_grid) == (8, 4)
    rows = student.pos_embed.detach()[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    stretched = F.interpolate(rows, (8, 8), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.pos_embed[:, 1:], stretched)
    assert load_readout(file, image_size=112, num_heads=2)(pictures(2, 112)).shape == (2, 32)


def tiny_timm(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    model = randomise(timm.create_model("eva02_tiny_patch14_224", num_classes=0)).eval()
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return model, tmp_path / "tiny.pt"


def test_a_timm_model_gives_what_timm_gives_before_its_head(tmp_path: Path):
    """Its own pooling is the mean with the norm behind it."""
    model, file = tiny_timm(tmp_path)
    images = pictures(1, 224)
    found = {norm: load_readout(f"timm:eva02_tiny_patch14_224={file}", norm=norm) for norm in NORMS}
    normalised = found["pooled"].normalise(images)
    with torch.no_grad():
        theirs, tokens = model(normalised), model.forward_features(normalised)
        torch.testing.assert_close(found["pooled"](images), theirs, rtol=0, atol=2e-5)
        torch.testing.assert_close(found["none"](images), tokens[:, 1:].mean(1), rtol=0, atol=2e-5)
        torch.testing.assert_close(found["tokens"](images), model.fc_norm(tokens)[:, 1:].mean(1), rtol=0, atol=2e-5)


@pytest.fixture
def folder(tmp_path: Path) -> ClassFolder:
    write_images(tmp_path / "images", 11)
    return class_folder(tmp_path / "images")


@pytest.fixture
def readout(tmp_path: Path) -> Readout:
    return load_readout(saved(small_student(), tmp_path / "checkpoint_0000001.pt"), num_heads=2)


CROP = EvaluationCrop()


def test_features_are_kept_and_not_computed_again(
    folder: ClassFolder, readout: Readout, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = features_of(readout, folder, tmp_path / "kept", Extraction(CROP, CPU, batch_size=4))
    before = (tmp_path / "kept" / "features.npy").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "eva02_mim"):
        again = features_of(readout, folder, tmp_path / "kept", Extraction(CROP, CPU, batch_size=3))
    assert (tmp_path / "kept" / "features.npy").stat().st_mtime_ns == before
    assert "features of 11 images are kept" in caplog.text
    np.testing.assert_array_equal(first.values, again.values)
    assert first.labels.tolist() == folder.labels.tolist()
    assert len(np.unique(first.values, axis=0)) == 11


@pytest.mark.parametrize("changed", ["weights", "network", "list of images", "crop", "precision"])
def test_stale_features_are_said_and_replaced(
    changed: str, folder: ClassFolder, readout: Readout, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    kept, how = tmp_path / "kept", Extraction(CROP, CPU)
    features_of(readout, folder, kept, how)
    if changed == "weights":
        with torch.no_grad():
            readout.norm.weight.mul_(2)
    elif changed == "network":
        readout = load_readout(tmp_path / "checkpoint_0000001.pt", num_heads=2, pool="class")
    elif changed == "list of images":
        write_images(tmp_path / "images", 1, first=40)
        folder = class_folder(tmp_path / "images")
    elif changed == "crop":
        how = Extraction(EvaluationCrop(0.5), CPU)
    else:
        how = Extraction(CROP, CPU, precision="bf16")
    with caplog.at_level(logging.WARNING, "eva02_mim"):
        found = features_of(readout, folder, kept, how)
    assert "are of another" in caplog.text
    assert changed in caplog.text
    fresh = features_of(readout, folder, tmp_path / "fresh", how)
    np.testing.assert_array_equal(found.values, fresh.values)


def test_features_that_were_not_finished_are_computed_again(folder: ClassFolder, readout: Readout, tmp_path: Path):
    whole = features_of(readout, folder, tmp_path / "kept", Extraction(CROP, CPU))
    expected = whole.values.copy()
    (tmp_path / "images" / "class0" / "0003.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0003.jpg cannot be read"):
        features_of(readout, folder, tmp_path / "kept", Extraction(EvaluationCrop(0.9), CPU))
    assert not (tmp_path / "kept" / "about.json").exists()
    write_images(tmp_path / "images", 11)
    again = features_of(readout, folder, tmp_path / "kept", Extraction(CROP, CPU))
    np.testing.assert_array_equal(again.values, expected)


def test_visits_are_other_crops_and_the_same_for_any_batch_size(folder: ClassFolder, readout: Readout, tmp_path: Path):
    found = [
        features_of(readout, folder, tmp_path / f"{size}", Extraction(RandomCrop(), CPU, visits=3, seed=2, batch_size=size))
        for size in (4, 11)
    ]
    np.testing.assert_allclose(found[0].values, found[1].values, atol=1e-5)
    assert found[0].values.shape == (33, 32)
    assert found[0].labels.tolist() == folder.labels.tolist() * 3
    visits = found[0].values.reshape(3, 11, 32)
    assert np.abs(visits[0] - visits[1]).max(1).min() > 1e-3, "each image is cropped anew"
    assert json.loads((tmp_path / "4" / "about.json").read_text())["visits"] == 3


def test_features_that_are_not_finite_are_refused(folder: ClassFolder, readout: Readout, tmp_path: Path):
    with torch.no_grad():
        readout.norm.bias[0] = torch.inf
    with pytest.raises(UserError, match=r"features of a batch that begins with .*0000.jpg are not finite"):
        features_of(readout, folder, tmp_path / "kept", Extraction(CROP, CPU))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pool": "max"}, "readout.pool=max is not one of mean, class"),
        ({"norm": "batch"}, "readout.norm=batch is not one of tokens, pooled, none"),
        ({"num_heads": None}, "are of no published size; pass --num-heads"),
        ({"source": "timm:no_such_model"}, "timm has no model no_such_model"),
        ({"source": "nowhere.pt"}, "nowhere.pt"),
        ({"image_size": 60}, "image_size=60 px is no multiple of patch_size=14"),
    ],
)
def test_a_network_that_cannot_be_read_is_named(arguments: dict[str, object], sentence: str, tmp_path: Path):
    file = saved(small_student(), tmp_path / "checkpoint_0000001.pt")
    with pytest.raises(UserError, match=sentence):
        load_readout(**{"source": file, "num_heads": 2, **arguments})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"l2": []}, "solver.l2=.* must hold one strength"),
        ({"l2": [1e-3, 0.0]}, "all above 0"),
        ({"held_out": 1.0}, "solver.held_out=1.0 is no share"),
        ({"precision": "bf16"}, "solver.precision=bf16 is not one of fp32, fp64"),
    ],
)
def test_a_solver_that_cannot_be_is_named(options: dict[str, object], sentence: str):
    with pytest.raises(UserError, match=sentence):
        LinearSolver(**options)


def test_classes_of_one_image_hold_none_out():
    features, labels = clouds(5)
    with pytest.raises(UserError, match="every class has one training image"):
        LinearSolver()(features, labels, 5, 5, CPU)


def test_neighbours_that_cannot_be_are_named():
    with pytest.raises(UserError, match=r"neighbours.k=0 must be at least 1"):
        NearestNeighbours(k=0)

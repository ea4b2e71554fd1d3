"""LazyConfig, LazyCall and instantiate."""

import builtins
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig
from torch import nn

from eva02_det._provider import active

d2lite_only = pytest.mark.skipif(active() == "official", reason="d2lite is stricter or clearer here")


@dataclass(frozen=True)
class Threshold:
    """A choice in a config."""

    value: float = 0.5
    steps: int = 3


def chosen_class(name: str) -> type:
    return getattr(nn, name)


class Holder:
    """Keeps what it was made with."""

    def __init__(self, **kwargs: object) -> None:
        self.__dict__.update(kwargs)


def write(folder: Path, **files: str) -> Path:
    """Write config files; "a__b" stands for a/b.py. Returns the last."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def reloaded(cfg: DictConfig, folder: Path) -> DictConfig:
    path = str(folder / "saved.yaml")
    LazyConfig.save(cfg, path)
    return LazyConfig.load(path)


# files


def test_relative_imports_find_files_by_path_and_not_by_package(tmp_path):
    file = write(
        tmp_path,
        configs__common__train="train = dict(max_iter=7)",
        configs__common__models="def model(width): return dict(width=width)",
        projects__a__configs__near="near = dict(x=1)",
        projects__a__configs__coco__leaf=(
            "from .....configs.common.train import train\n"
            "from .....configs.common.models import model as make\n"
            "from ..near import near\n"
            "model = make(3)\n"
        ),
    )
    cfg = LazyConfig.load(str(file))
    assert cfg == {"train": {"max_iter": 7}, "model": {"width": 3}, "near": {"x": 1}}


def test_a_dict_from_another_config_can_be_changed_by_attribute(tmp_path):
    file = write(tmp_path, base="train = dict(amp=dict(enabled=False))", leaf="from .base import train\ntrain.amp.enabled = True")
    assert LazyConfig.load(str(file)).train.amp.enabled is True


def test_two_configs_that_import_the_same_file_do_not_share_its_trees(tmp_path):
    write(tmp_path, base="train = dict(steps=1)", one="from .base import train\ntrain.steps = 2", two="from .base import train")
    changed, other = (LazyConfig.load(str(tmp_path / name)) for name in ("one.py", "two.py"))
    assert (changed.train.steps, other.train.steps) == (2, 1)


def test_only_public_trees_of_a_file_belong_to_its_config(tmp_path):
    file = write(tmp_path, leaf="import math\nmodel = dict(a=1)\n_secret = dict(b=2)\nwidth = 3\ndef f(): pass")
    cfg = LazyConfig.load(str(file))
    assert set(cfg) == {"model"}


def test_keys_choose_one_tree_or_a_tuple_of_them(tmp_path):
    file = str(write(tmp_path, leaf="a = dict(x=1)\nb = dict(y=2)"))
    assert LazyConfig.load(file, "a").x == 1
    first, second = LazyConfig.load(file, ("a", "b"))
    assert (first.x, second.y) == (1, 2)


def test_load_rel_starts_at_the_file_that_calls_it(tmp_path):
    write(tmp_path, sub__leaf="a = dict(x=1)")
    caller = tmp_path / "caller.py"
    caller.write_text("from detectron2.config import LazyConfig\nloaded = LazyConfig.load_rel('sub/leaf.py', 'a')\n")
    names: dict = {}
    exec(compile(caller.read_text(), str(caller), "exec"), names)
    assert names["loaded"].x == 1


def test_configs_import_packages_as_any_python_file_does(tmp_path):
    file = write(tmp_path, leaf="from math import floor\nimport os.path\na = dict(x=floor(2.5), y=os.path.join('p', 'q'))")
    assert LazyConfig.load(str(file)).a == {"x": 2, "y": "p/q"}


@d2lite_only
def test_a_config_that_fails_leaves_the_import_of_python_alone(tmp_path):
    before = builtins.__import__
    file = write(tmp_path, leaf="from .absent import nothing")
    with pytest.raises(ImportError):
        LazyConfig.load(str(file))
    assert builtins.__import__ is before


def test_an_import_of_a_config_that_is_not_there_names_the_missing_file(tmp_path):
    file = write(tmp_path, leaf="a = dict()\nfrom .sub.absent import nothing")
    with pytest.raises(ImportError, match=r"sub/absent\.py"):
        LazyConfig.load(str(file))


@d2lite_only
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a = 1\nfrom .absent import x", ImportError),
        ("a = 1\nfrom .base import absent", ImportError),
        ("a = 1\nfrom .base import *", ImportError),
        ("a = 1\nfrom . import base", ImportError),
        ("a = 1\nb = = 2", SyntaxError),
        ("a = 1\nfrom .leaf import a", ImportError),
    ],
    ids=["missing file", "missing name", "star", "folder", "syntax", "circle"],
)
def test_an_error_in_a_config_names_its_file_and_line(tmp_path, text, error):
    file = write(tmp_path, base="x = dict()", leaf=text)
    with pytest.raises(error, match=r"leaf\.py, line 2"):
        LazyConfig.load(str(file))


def test_an_error_in_an_imported_config_shows_that_file_in_its_traceback(tmp_path):
    file = write(tmp_path, base="x = dict()\ny = 1 / 0", leaf="from .base import x")
    with pytest.raises(ZeroDivisionError) as failure:
        LazyConfig.load(str(file))
    last = failure.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("base.py", 2)


@d2lite_only
def test_a_key_that_a_config_lacks_and_an_unknown_kind_of_file_are_named(tmp_path):
    file = str(write(tmp_path, leaf="a = dict()"))
    with pytest.raises(KeyError, match=r"leaf\.py defines no 'b'"):
        LazyConfig.load(file, "b")
    with pytest.raises(ValueError, match="ends neither in"):
        LazyConfig.load(str(tmp_path / "config.json"))


# saving


def test_a_saved_config_instantiates_to_the_same_module(tmp_path):
    cfg = DictConfig(
        {
            "model": L(nn.Sequential)(),
            "layers": [L(nn.Linear)(in_features=3, out_features="${..1.num_features}"), L(nn.BatchNorm1d)(num_features=5)],
            "train": {"steps": 10, "name": None, "lr": 1e-4, "on": True, "text": "null"},
        },
        flags={"allow_objects": True},
    )
    again = reloaded(cfg, tmp_path)
    assert again.train == cfg.train
    before, after = instantiate(cfg.layers), instantiate(again.layers)
    assert [repr(layer) for layer in after] == [repr(layer) for layer in before]
    again.layers[1].num_features = 7
    assert instantiate(again.layers)[0].out_features == 7, "interpolations survive saving"


def test_functions_classes_and_partials_in_a_saved_config_come_back(tmp_path):
    cfg = L(Holder)(norm=nn.LayerNorm, act=torch.nn.functional.gelu, factor=partial(pow, exp=2), builtin=len)
    made = instantiate(reloaded(cfg, tmp_path))
    assert made.norm is nn.LayerNorm
    assert made.act is torch.nn.functional.gelu
    assert made.builtin is len
    assert made.factor(3) == 9


def test_a_dataclass_in_a_saved_config_comes_back(tmp_path):
    cfg = L(Holder)(choice=Threshold(0.25), several=[Threshold(), L(Threshold)(steps=9)])
    for config in (cfg, reloaded(cfg, tmp_path)):
        made = instantiate(config)
        assert made.choice == Threshold(0.25)
        assert list(made.several) == [Threshold(), Threshold(steps=9)]


@d2lite_only
def test_a_dtype_in_a_saved_config_comes_back(tmp_path):
    cfg = DictConfig({"amp": {"dtype": torch.bfloat16}, "model": L(Holder)(dtype=torch.float16)}, flags={"allow_objects": True})
    again = reloaded(cfg, tmp_path)
    assert again.amp.dtype is torch.bfloat16
    assert instantiate(again.model).dtype is torch.float16


@d2lite_only
def test_targets_are_saved_under_their_shortest_public_name(tmp_path):
    LazyConfig.save(L(nn.Linear)(in_features=1, out_features=2), str(tmp_path / "c.yaml"))
    assert "_target_: torch.nn.Linear" in (tmp_path / "c.yaml").read_text()


@d2lite_only
def test_what_yaml_cannot_hold_is_pickled_with_a_warning(tmp_path, caplog):
    path = str(tmp_path / "c.yaml")
    with caplog.at_level(logging.WARNING):
        LazyConfig.save(L(Holder)(function=lambda: 1), path)
    assert "c.yaml.pkl" in caplog.text
    assert Path(path + ".pkl").is_file()
    assert not Path(path).exists()


# overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b.c=3", 3),
        ("a.b.c=1e-4", 1e-4),
        ("a.b.c=true", True),
        ("a.b.c=null", None),
        ("a.b.c=some/path.pth", "some/path.pth"),
        ("a.b.c='x=1, y'", "x=1, y"),
        ('a.b.c="1"', "1"),
        ("a.b.c=[1,2.5,x]", [1, 2.5, "x"]),
        ("a.b.c={d:1,e:[2]}", {"d": 1, "e": [2]}),
        ("+a.b.c=5", 5),
        ("a.b.c=", ""),
    ],
)
def test_overrides_follow_hydras_grammar(text, value):
    cfg = LazyConfig.apply_overrides(DictConfig({"a": {"b": {"c": 0, "z": 1}}}), [text])
    assert cfg.a.b.c == value
    assert type(cfg.a.b.c) in (type(value), DictConfig, ListConfig)
    assert cfg.a.b.z == 1


def test_an_override_makes_the_keys_that_are_absent_and_merges_dicts():
    cfg = LazyConfig.apply_overrides(DictConfig({"a": {"x": 1}}), ["a={y:2}", "p.q.r=3"])
    assert cfg == {"a": {"x": 1, "y": 2}, "p": {"q": {"r": 3}}}


def test_an_override_reaches_into_a_list():
    assert LazyConfig.apply_overrides(DictConfig({"a": [1, {"b": 2}]}), ["a.1.b=5"]).a[1].b == 5


def test_an_override_below_a_value_is_an_error_that_names_it():
    with pytest.raises(KeyError, match=r"a\.b"):
        LazyConfig.apply_overrides(DictConfig({"a": {"b": 3}}), ["a.b.c=1"])


def test_deleting_a_key_is_refused():
    with pytest.raises(NotImplementedError):
        LazyConfig.apply_overrides(DictConfig({"a": 1}), ["~a"])


def test_text_that_is_no_override_is_an_error():
    with pytest.raises(Exception, match="train steps 3"):
        LazyConfig.apply_overrides(DictConfig({}), ["train steps 3"])


# instantiate


def test_calls_are_made_from_the_inside_out():
    made = instantiate(L(Holder)(inner=L(Holder)(x=1), several=[L(Holder)(x=2), 3]))
    assert made.inner.x == 1
    assert made.several[0].x == 2
    assert made.several[1] == 3


def test_a_target_may_be_a_dotted_name_or_a_call_that_makes_it():
    assert isinstance(instantiate(L("torch.nn.Identity")()), nn.Identity)
    assert instantiate({"_target_": "builtins.dict", "x": 1}) == {"x": 1}
    assert instantiate({"_target_": L(chosen_class)(name="Dropout"), "p": 0.25}).p == 0.25


def test_interpolated_arguments_are_resolved():
    layer = instantiate(L(nn.Linear)(in_features=4, out_features="${.in_features}"))
    assert layer.weight.shape == (4, 4)


def test_a_node_that_appears_twice_is_built_twice():
    shared = L(nn.Linear)(in_features=1, out_features=1)
    made = instantiate(L(Holder)(a=shared, b=shared))
    assert made.a is not made.b


def test_mappings_without_a_target_and_other_values_come_back_as_they_are():
    plain = DictConfig({"a": {"b": 1}})
    assert instantiate(plain) is plain
    assert instantiate(Threshold) is Threshold
    assert instantiate(3) == 3
    assert instantiate([L(Holder)(x=1)])[0].x == 1


def test_instantiating_leaves_the_config_unchanged():
    cfg = L(Holder)(inner=L(Holder)(x=1))
    instantiate(cfg)
    assert cfg.inner.x == 1
    assert cfg["_target_"] is Holder


def test_arguments_that_do_not_fit_are_the_targets_own_error():
    with pytest.raises(TypeError, match="bananas"):
        instantiate(L(nn.Linear)(in_features=1, out_features=1, bananas=3))


def test_a_target_that_does_not_exist_is_named():
    with pytest.raises(Exception, match=r"torch\.nn\.Absent"):
        instantiate(L("torch.nn.Absent")())


def test_only_callables_names_and_nodes_can_be_called_lazily():
    with pytest.raises(TypeError):
        L(3)


def test_to_py_shows_each_value_by_its_name():
    if active() == "official":
        pytest.importorskip("black", reason="the official package formats with black")
    model = L(nn.Linear)(in_features=1, out_features=2)
    text = LazyConfig.to_py(DictConfig({"train": {"steps": 3}, "model": model}, flags={"allow_objects": True}))
    assert "cfg.train.steps = 3" in text
    assert "cfg.model = " in text
    assert "Linear(" in text
    assert "in_features=1" in text

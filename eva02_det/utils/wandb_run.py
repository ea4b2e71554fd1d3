"""A run in Weights & Biases: an extra, offline unless asked otherwise, the same run after every resume."""

import importlib.util
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json

RECORD = "wandb_run.json"
MODES = ("online", "offline", "disabled")


class WandbRun:
    """Numbers by step, sent to wandb or kept below `folder` for `wandb sync FOLDER/wandb/offline-run-*`.

    `wandb_run.json` in the folder keeps the id, and the newest step with the names that were handed over. A resumed run goes on
    under that id. What it takes again is not handed over again: the numbers are the same, and wandb cannot take points back.

    Args:
        mode: online, offline or disabled; None for that of the environment (WANDB_MODE), else offline, as compute nodes
            often reach nothing outside.
    """

    def __init__(
        self, folder: str | Path, project: str, *, entity: str | None = None, name: str | None = None, mode: str | None = None
    ) -> None:
        import wandb

        self._record = Path(folder) / RECORD
        known = _read(self._record)
        self.id, self._step = known.get("id") or secrets.token_hex(4), int(known.get("step", -1))
        self._names = set(known.get("names", ()))
        self._before, self._known = self._step, frozenset(self._names)  # what an earlier attempt has handed over
        self._store()
        try:
            self._run: Any = wandb.init(
                project=project,
                entity=entity,
                name=name or Path(folder).name,
                id=self.id,
                resume="allow",
                mode=_mode(mode),
                dir=str(folder),
                config=_config_of(Path(folder)),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"wandb does not begin its run ({' '.join(str(error).split())}); set train.wandb.mode=offline, or log in"
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step; steps ascend, and one may come in parts."""
        known = self._known if step == self._before else frozenset()
        new = {name: value for name, value in numbers.items() if name not in known}
        if step < self._before or not new:
            return
        self._run.log(new, step=step)
        self._names = set(new) | (self._names if step == self._step else set())
        self._step = step
        self._store()

    def close(self) -> None:
        """Wait until everything is sent or on disk."""
        self._run.finish()

    def _store(self) -> None:
        write_json(self._record, {"id": self.id, "step": self._step, "names": sorted(self._names)})


def open_run(folder: str | Path, settings: Mapping[str, Any] | None) -> WandbRun | None:
    """The run that `train.wandb` asks for; None where it names no project."""
    if not wants_wandb(settings):
        return None
    assert settings is not None
    return WandbRun(folder, settings["project"], **{key: settings.get(key) for key in ("entity", "name", "mode")})


def forget_run(folder: str | Path) -> None:
    """For a run that begins anew in a folder, not resumed: it is another one."""
    (Path(folder) / RECORD).unlink(missing_ok=True)


def wants_wandb(settings: Mapping[str, Any] | None) -> bool:
    """Whether `train.wandb` asks for a run; UserError where it cannot be had."""
    if not settings or not settings.get("project"):
        return False
    _mode(settings.get("mode"))
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"train.wandb.project={settings['project']}, but wandb is not installed; `pip install wandb`, or set it to null"
        )
    return True


def _mode(stated: str | None) -> Any:
    mode = stated or os.environ.get("WANDB_MODE") or "offline"
    if mode not in MODES:
        raise UserError(f"train.wandb.mode={mode} is not one of {', '.join(MODES)}")
    return mode


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is not readable ({error}); remove it to begin a new wandb run") from error


def _config_of(folder: Path) -> dict[str, Any]:
    """The config that the run saved in its folder, where it is plain YAML."""
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}

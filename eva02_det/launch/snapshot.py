"""What a run was computed with: its code, copied to where nobody edits it, the commit, the changes and package versions."""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json, write_text

PARTS = ("eva02_det", "eva02_mim", "d2lite", "configs", "projects", "tools")  # what a run needs, where there is no git
LARGEST = 2 * 2**20  # bytes of a file that git does not know: larger ones are data, not code


@dataclass(frozen=True)
class Snapshot:
    """The copy of a checkout in `root`, from which jobs run. commit: None without git; changed: files that differ from it."""

    root: Path
    checkout: Path
    commit: str | None
    changed: tuple[str, ...]
    left_out: tuple[str, ...]
    names: frozenset[str]

    def path_of(self, text: str) -> str:
        """A file of the checkout that was copied -> the same file of the copy, absolute; any other text as it is."""
        path = Path(text)
        if not path.is_file() or not path.resolve().is_relative_to(self.checkout):
            return text
        name = str(path.resolve().relative_to(self.checkout))
        return str(self.root / name) if name in self.names else text

    def describe(self) -> str:
        """One sentence for the user."""
        commit = "no git" if self.commit is None else f"commit {self.commit[:10]}"
        changes = f" with {len(self.changed)} changed files" if self.changed else ""
        large = f"; left out, as they are large and unknown to git: {', '.join(self.left_out)}" if self.left_out else ""
        return f"code: {self.root} ({commit}{changes}){large}"


def take(checkout: Path, folder: Path, *, write: bool = True) -> Snapshot:
    """Copy the code of a checkout, with its changes, to `folder/<digest>`, and write beside it what else makes a result.

    `<digest>.json` holds commit, changed files and versions, `<digest>.diff` the changes to the commit. Code that is there
    already is not copied again, so that a run that is submitted twice without a change keeps what it has. Without `write`
    nothing is copied, and the answer is what would be.
    """
    checkout = checkout.resolve()
    known = _git(checkout, "rev-parse", "--show-toplevel")
    has_git = known is not None and Path(known.strip()).resolve() == checkout
    names, left_out = _of_git(checkout) if has_git else (_of_parts(checkout), [])
    if "eva02_det/__init__.py" not in names:
        raise UserError(f"{checkout} is no checkout of this project: it has no eva02_det; submit with the tools of one")
    digest = _digest(checkout, names)
    root = folder.resolve() / digest
    commit = (_git(checkout, "rev-parse", "HEAD") or "").strip() or None if has_git else None
    status = _git(checkout, "status", "--porcelain", "--untracked-files=all") if has_git else ""
    changed = tuple(sorted(line[3:] for line in (status or "").splitlines()))
    taken = Snapshot(root, checkout, commit, changed, tuple(left_out), frozenset(names))
    if write and not root.is_dir():
        _copy(checkout, names, root)
        write_json(root.with_suffix(".json"), _record(taken), indent=2)
        if has_git:
            write_text(root.with_suffix(".diff"), _git(checkout, "diff", "HEAD") or "")
    return taken


def versions() -> dict[str, str]:
    """Of Python, of CUDA as torch was built for it, and of every package that is installed."""
    installed = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
    own = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    return own | dict(sorted(installed.items(), key=lambda pair: pair[0].lower()))


def _record(taken: Snapshot) -> dict[str, object]:
    return {
        "checkout": str(taken.checkout),
        "commit": taken.commit,
        "changed": taken.changed,
        "left_out": taken.left_out,
        "taken": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interpreter": sys.executable,
        "versions": versions(),
    }


def _of_git(checkout: Path) -> tuple[list[str], list[str]]:
    """Files that git tracks or would: (those to copy, those that are new and too large for code)."""
    tracked = (_git(checkout, "ls-files", "-z") or "").split("\0")
    others = (_git(checkout, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0")
    new = [name for name in others if name and (checkout / name).is_file()]
    large = [name for name in new if (checkout / name).stat().st_size > LARGEST]
    names = {name for name in tracked if name and (checkout / name).is_file()} | (set(new) - set(large))
    return sorted(names), sorted(large)


def _of_parts(checkout: Path) -> list[str]:
    files = [file for part in PARTS for file in (checkout / part).rglob("*") if file.is_file()]
    return sorted(str(file.relative_to(checkout)) for file in files if "__pycache__" not in file.parts)


def _digest(checkout: Path, names: list[str]) -> str:
    """12 hex digits of names and contents."""
    sha = hashlib.sha256()
    for name in names:
        sha.update(json.dumps(name).encode())
        sha.update(hashlib.sha256((checkout / name).read_bytes()).digest())
    return sha.hexdigest()[:12]


def _copy(checkout: Path, names: list[str], root: Path) -> None:
    """Copy to a folder beside `root` that is then named `root`: a copy that was interrupted is no snapshot."""
    beside = root.with_name(f".{root.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    for name in names:
        target = beside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / name, target)
    beside.rename(root)


def _git(checkout: Path, *arguments: str) -> str | None:
    """What git prints; None where it is not there or the folder is none of its."""
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None

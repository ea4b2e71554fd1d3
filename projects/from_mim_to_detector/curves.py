"""Box AP against iterations of both detectors: read from their runs, compared by one rule, written as a table and drawn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json

METRIC = "bbox/AP"
ARMS = {"scratch": "from scratch", "pretrained": "pre-trained"}
COLORS = {"scratch": "#8a8a8a", "pretrained": "#1f77b4"}
BAR = 0.5  # of the iterations, that reaching the final AP from scratch may take
Curve = list[tuple[int, float]]  # (iterations done, box AP in percent), in order


@dataclass(frozen=True)
class Comparison:
    """What one seed shows. `reached`: iterations after which the pre-trained detector was as good; None: it never was."""

    seed: int
    scratch: Curve
    pretrained: Curve
    reached: int | None

    @classmethod
    def of(cls, seed: int, scratch: Curve, pretrained: Curve) -> "Comparison":
        return cls(seed, scratch, pretrained, first_reaching(pretrained, scratch[-1][1]))

    @property
    def share(self) -> float | None:
        """`reached` as a share of the iterations from scratch."""
        return None if self.reached is None else self.reached / self.scratch[-1][0]

    @property
    def passes(self) -> bool:
        """Whether half of the iterations were enough."""
        return self.share is not None and self.share <= BAR


def first_reaching(curve: Curve, level: float) -> int | None:
    """Iterations at the first evaluation with at least `level`; None where no evaluation has it."""
    return next((iterations for iterations, ap in curve if ap >= level), None)


def evaluations(run: str | Path, last: int) -> Curve:
    """Those of a detector's run of `last` iterations, however often it was resumed, each once; empty before the first."""
    file = Path(run) / "metrics.json"
    found: dict[int, float] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off when the run was killed
        if METRIC in row:
            # counted from 0, but for the evaluation after the last iteration
            found[min(int(row["evaluated_iteration"]) + 1, last)] = float(row[METRIC])
    return sorted(found.items())


def read_curve(run: str | Path, last: int) -> Curve:
    """The evaluations of a complete run of `last` iterations; UserError where the last one is missing."""
    found = evaluations(run, last)
    if not found or found[-1][0] != last:
        raise UserError(f"{run} has no {METRIC} after its last iteration, {last}; give the command again, which goes on with it")
    return found


def table(found: Sequence[Comparison]) -> str:
    """One row an evaluation, one column a seed and arm; below, when the final AP from scratch was reached."""
    lines = []
    for one in found:
        lines.append(f"seed {one.seed}: box AP after iterations")
        lines.append("  " + " ".join(f"{iterations:>6}" for iterations, _ in one.scratch))
        for arm, name in ARMS.items():
            lines.append("  " + " ".join(f"{ap:6.1f}" for _, ap in getattr(one, arm)) + f"  {name}")
        lines.append(f"  {sentence(one)}")
    met = sum(one.passes for one in found)
    return "\n".join([*lines, f"in at most {BAR:.0%} of the iterations: {met} of {len(found)} seeds"])


def sentence(one: Comparison) -> str:
    """What a seed shows, in words."""
    total, final = one.scratch[-1]
    if one.reached is None or one.share is None:
        return f"the pre-trained detector never had the {final:.1f} that the one from scratch had after {total} iterations"
    return f"{final:.1f} after {total} iterations from scratch, after {one.reached} pre-trained: {one.share:.0%}"


def as_json(found: Sequence[Comparison]) -> Mapping[str, object]:
    """The content of curves.json."""
    seeds = [
        {
            "seed": one.seed,
            "scratch": one.scratch,
            "pretrained": one.pretrained,
            "reached_after": one.reached,
            "share_of_iterations": one.share,
            "within_half": one.passes,
        }
        for one in found
    ]
    return {"metric": METRIC, "bar": BAR, "seeds": seeds}


def write_curves(folder: str | Path, found: Sequence[Comparison]) -> None:
    """curves.json, curves.txt and curves.png in a folder."""
    write_json(Path(folder) / "curves.json", as_json(found), indent=1)
    with atomic_path(Path(folder) / "curves.txt") as path:
        path.write_text(table(found) + "\n", encoding="utf-8")
    draw(Path(folder) / "curves.png", found)


def draw(target: str | Path, found: Sequence[Comparison]) -> None:
    """One panel a seed, both curves in it; a mark where the final AP from scratch was reached."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * len(found), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, found):
        total, final = one.scratch[-1]
        for arm, name in ARMS.items():
            panel.plot(*zip(*getattr(one, arm)), color=COLORS[arm], marker=".", label=name)
        panel.axhline(final, color=COLORS["scratch"], linewidth=0.8, linestyle=":")
        panel.axvline(BAR * total, color="black", linewidth=0.8, linestyle=":")
        if one.reached is not None:
            panel.plot([one.reached], [dict(one.pretrained)[one.reached]], "o", markersize=9, fillstyle="none", color="black")
        panel.set(title=f"seed {one.seed}", xlabel="iterations", xlim=(0, total))
    panels[0].set(ylabel="box AP on held-out scenes", ylim=(0, None))
    panels[0].legend(loc="upper left", frameon=False)
    with atomic_path(target) as path:
        figure.savefig(path, format="png", dpi=80)

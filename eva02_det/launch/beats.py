"""The beats of the ranks in the store in which they met, and the verdict on one that has none."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from eva02_det.launch.member import Member
from eva02_det.utils.errors import UserError

LONGEST_BEAT_S = 3.0
STARTING, RUNNING, ENDED = "starting", "running", "ended"
VERDICT = "verdict"


@dataclass(frozen=True)
class Verdict:
    """Which rank is the reason that the run ends. is_silent: its process may still exist. is_agreed: others may end as it did."""

    rank: int
    text: str
    is_silent: bool = False
    is_agreed: bool = False


@dataclass
class Heard:
    """The newest beat of a rank, and when it came here."""

    beat: str
    at: float


class Beats:
    """Writes this rank's beats and reads those that it judges by, in a thread, which alone talks to the store.

    Args:
        connect: seconds to wait -> a connection to the store for this thread alone.
        patience_s: of the watch; it sets how often a rank beats.
        first_holds_store: whether the store ends with the first rank; under torchrun its agent holds it.
    """

    def __init__(
        self, connect: Callable[[float], Any], me: Member, world: int, patience_s: float, *, first_holds_store: bool
    ) -> None:
        self.me, self.is_running = me, False
        self.interval_s = min(LONGEST_BEAT_S, patience_s / 10)
        self._connect, self._patience_s, self._first_holds_store = connect, patience_s, first_holds_store
        self._store = connect(patience_s)
        self.members = self._meet(world)
        self._judged = [one for one in self.members if one.rank != me.rank and 0 in (me.rank, one.rank)]
        self._near = [one for one in self.members if one.rank != me.rank and one.is_near]
        now = time.monotonic()
        self._heard = {one.rank: Heard(STARTING, now) for one in self._judged}
        self._answered, self._lost = now, ""
        self._verdict: Verdict | None = None
        self._proposed: Verdict | None = None
        self._refused = False  # what was proposed
        self._leaves, self._wake = False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="beats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self, error: str, *, is_agreed: bool) -> None:
        """Say goodbye, or why this rank ends; waits until that is done, as far as the store answers."""
        if error:
            self._proposed = Verdict(self.me.rank, f"{self.me} {error}", is_agreed=is_agreed)
        self._leaves = True
        self._wake.set()
        self._thread.join(4 * self.interval_s + 10)

    def forgive(self, now: float) -> None:
        """Take the silence of the others until now as none."""
        self._answered = now
        for heard in self._heard.values():
            heard.at = now

    def judge(self, now: float, patience_s: float, starting_s: float) -> Verdict | None:
        """What this rank holds of the others now; never waits."""
        if self._verdict is not None:
            return self._verdict
        gone = next((one for one in self._near if one.is_gone), None)
        if gone is not None:
            return Verdict(gone.rank, f"{gone} is gone: its process has ended without a word")
        for rank, heard in self._heard.items():
            limit = starting_s if heard.beat.startswith(STARTING) else patience_s
            if heard.beat != ENDED and now - heard.at > limit and now - self._answered <= self.interval_s * 3:
                return self._silent(self.members[rank], now - heard.at)
        limit = patience_s if self.is_running else starting_s
        if self._lost or now - self._answered > limit:
            return self._without_store(now)
        return None

    def agreed(self, mine: Verdict) -> Verdict | None:
        """The verdict that holds for all ranks, `mine` where the store does not answer; waits two beats at most.

        None where the rank in question has said goodbye.
        """
        if self._verdict is None:
            self._proposed, self._refused = mine, False
            self._wake.set()
            until = time.monotonic() + 2 * self.interval_s + 1
            while self._verdict is None and self._thread.is_alive() and time.monotonic() < until:
                if self._refused:
                    return None
                time.sleep(0.02)
        return self._verdict or mine

    def _meet(self, world: int) -> list[Member]:
        """All ranks by number; waits for them."""
        self._store.set(f"member/{self.me.rank}", self.me.as_text())
        if self.me.rank == 0:
            self._store.set(VERDICT, "")
        self._store.set(f"beat/{self.me.rank}", STARTING)
        keys = [f"member/{rank}" for rank in range(world)]
        try:
            self._store.wait([*keys, VERDICT], timedelta(seconds=10 * self._patience_s))
            self._store.wait([f"beat/{rank}" for rank in range(world)], timedelta(seconds=self._patience_s))
        except RuntimeError as error:
            missing = [rank for rank in range(world) if not self._store.check([f"member/{rank}"])]
            raise UserError(
                f"ranks {', '.join(map(str, missing)) or '?'} did not come to the watchdog within {10 * self._patience_s:.0f} s; "
                "look at their logs, or set EVA02_RANK_TIMEOUT to more seconds"
            ) from error
        return [Member.from_text(self._store.get(key).decode()) for key in keys]

    def _beat(self) -> None:
        number = 0
        while not self._leaves and self._verdict is None:
            try:
                self._exchange(f"{RUNNING if self.is_running else STARTING} {number}")
            except RuntimeError as error:  # what the store's client raises
                if not self._reconnect():
                    self._lost = " ".join(str(error).split())[:200]
                    return
            number += 1
            self._wake.wait(self.interval_s)
            self._wake.clear()
        try:
            self._goodbye()
        except RuntimeError:
            return  # nobody is there to be told

    def _exchange(self, beat: str) -> None:
        """Write my beat and what I propose; read the beats that I judge, and the verdict."""
        self._store.set(f"beat/{self.me.rank}", beat)
        self._propose()
        *beats, verdict = self._store.multi_get([*(f"beat/{one.rank}" for one in self._judged), VERDICT])
        now = self._answered = time.monotonic()
        for one, text in zip(self._judged, beats):
            if self._heard[one.rank].beat != text.decode():
                self._heard[one.rank] = Heard(text.decode(), now)
                if text.decode() == ENDED:
                    self._near = [near for near in self._near if near.rank != one.rank]
        if verdict:
            self._verdict = Verdict(**json.loads(verdict))

    def _propose(self) -> None:
        """The first verdict of all holds; none on a rank that has said goodbye meanwhile."""
        verdict, self._proposed = self._proposed, None
        if verdict is None:
            return
        if verdict.rank != self.me.rank and self._store.get(f"beat/{verdict.rank}").decode() == ENDED:
            self._near = [one for one in self._near if one.rank != verdict.rank]
            self._refused = True
            return
        self._store.compare_set(VERDICT, "", json.dumps(asdict(verdict)))

    def _goodbye(self) -> None:
        """My last beat. The first rank stays while others have to read it, for a few beats at most."""
        self._propose()
        self._store.set(f"beat/{self.me.rank}", ENDED)
        until = time.monotonic() + 3 * self.interval_s + 1
        others = [f"beat/{one.rank}" for one in self.members if one.rank != self.me.rank]
        while self.me.rank == 0 and self._first_holds_store and time.monotonic() < until:
            if all(text.decode() == ENDED for text in self._store.multi_get(others)):
                return
            time.sleep(0.05)

    def _reconnect(self) -> bool:
        try:
            self._store = self._connect(max(1.0, min(10.0, self._patience_s / 4)))
        except RuntimeError:
            return False
        return True

    def _silent(self, member: Member, since_s: float) -> Verdict:
        return Verdict(member.rank, f"{member} has not answered for {since_s:.0f} s", is_silent=True)

    def _without_store(self, now: float) -> Verdict:
        """The first rank holds the store, or torchrun on its machine does."""
        first = self.members[0]
        who = str(first) if self._first_holds_store else f"torchrun on the machine of {first}"
        how = f"is gone: {self._lost}" if self._lost else f"has not answered for {now - self._answered:.0f} s"
        return Verdict(0, f"{who}, through which the ranks meet, {how}", is_silent=not self._lost and self._first_holds_store)

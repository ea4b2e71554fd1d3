"""One thing that was looked at before a run: what was found, and the remedy where something is wrong."""

from dataclasses import dataclass

OK, NOTE, WARNING, FAULT = "ok", "note", "warning", "fault"


@dataclass(frozen=True)
class Finding:
    """topic: a word or two. state: ok, note (could not be looked at), warning, or fault (a run would end or be wrong)."""

    topic: str
    state: str
    text: str
    remedy: str = ""

    def lines(self) -> list[str]:
        """For people: the finding, and its remedy on a line of its own."""
        first = f"{self.state:<8} {self.topic}: {self.text}"
        return [first, f"{'':<8} remedy: {self.remedy}"] if self.remedy else [first]

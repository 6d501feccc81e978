"""Decisions about findings, one after the other, each of which can be taken back."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from hfft.curate.desk import COLUMNS, Desk, Suspect, finding_row
from hfft.errors import DataError

MOST = 500
"""Findings that are shown, the worst first."""


@dataclass(frozen=True)
class Decision:
    """What is to become of an image: see `hfft.curate.fixes`; `label` is the new one of a relabelled image."""

    action: Literal["keep", "relabel", "drop"]
    label: str = ""


@dataclass
class Review:
    """The findings about a set of images, and what was decided.

    Args:
        desk: what was found.
        at: number of the finding that is looked at.
        decisions: by number of the finding.
    """

    desk: Desk
    at: int = 0
    decisions: dict[int, Decision] = field(default_factory=dict)
    _before: list[tuple[int, Decision | None]] = field(default_factory=list)

    @property
    def findings(self) -> tuple[Suspect, ...]:
        """Return what is shown, suspect labels first."""
        return self.desk.suspects[:MOST]

    @property
    def current(self) -> Suspect | None:
        """Return the finding that is looked at; None where there are none."""
        return self.findings[self.at] if self.at < len(self.findings) else None

    def look(self, number: int) -> None:
        """Look at another finding."""
        if 0 <= number < len(self.findings):
            self.at = number

    def decide(self, decision: Decision) -> None:
        """Decide about the finding that is looked at, and go on to the next one that nothing is decided about.

        Raises:
            DataError: there is no finding, or no label to give.
        """
        if self.current is None:
            raise DataError("there is no finding to decide about; look for wrong labels first")
        if decision.action == "relabel" and not decision.label:
            raise DataError("choose the label that this image is to have first")
        self._before.append((self.at, self.decisions.get(self.at)))
        self.decisions[self.at] = decision
        order = [*range(self.at + 1, len(self.findings)), *range(self.at)]
        self.at = next((number for number in order if number not in self.decisions), self.at)

    def undo(self) -> None:
        """Take the last decision back, and look at its finding again.

        Raises:
            DataError: there is none.
        """
        if not self._before:
            raise DataError("nothing was decided that could be taken back")
        self.at, before = self._before.pop()
        if before is None:
            del self.decisions[self.at]
        else:
            self.decisions[self.at] = before

    def describe(self) -> str:
        """Say in a sentence what was decided."""
        counts: Counter[str] = Counter(decision.action for decision in self.decisions.values())
        words = {"keep": "kept", "relabel": "relabelled", "drop": "dropped"}
        said = ", ".join(f"{counts[action]} {word}" for action, word in words.items() if counts[action])
        return f"{len(self.decisions)} of {len(self.findings)} findings decided{': ' if said else ''}{said}."

    def csv(self) -> str:
        """Return the decisions as `hfft labels --apply` reads them."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, decision in sorted(self.decisions.items()):
            writer.writerow(finding_row(self.findings[number], decision.action, decision.label))
        return stream.getvalue()

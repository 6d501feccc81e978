"""The trace of a run: what each epoch brought, in numbers, as a table of text and in plain words."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import wrap

from hfft.errors import HfftError
from hfft.files import cannot_write, whole_file
from hfft.metrics import WORDS
from hfft.report.terminal import can_encode

PROBE = "linear probe"
"""Stands for a phase in the row of a linear probe that the training did not begin with."""
MOVED = 0.001  # smaller differences do not show in three decimals, so no sentence rests on them
LEVEL = 0.005  # an accuracy that moves by less than half a percentage point has levelled off
JUMP = 1.5  # a loss that grows by this factor, and by JUMP_BY nats, has jumped
JUMP_BY = 0.1

_BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass
class EpochRow:
    """One epoch of one phase.

    Args:
        epoch: epochs done since the run began, across its phases; 0 for what stood before training.
        phase: the name of the phase that the epoch belongs to, or `PROBE`.
        train_loss: mean cross-entropy over the epoch's training steps, in nats; not a number where none was logged
            after the row before: a training whose loss is not finite ends.
        eval_loss: mean cross-entropy over the validation images after the epoch, in nats.
        score: validation accuracy, 0 to 1, or the other metric that decides; higher is better, 1 the most.
        learning_rate: at the epoch's end, of the parameters whose factor is 1.
        seconds: what the epoch took, evaluation included.
        observation: what `observe` says about it.
        metric: what the score is; its column in ``trace.csv`` has that name.
    """

    epoch: float
    phase: str
    train_loss: float
    eval_loss: float
    score: float
    learning_rate: float
    seconds: float
    observation: str = ""
    metric: str = "accuracy"

    @property
    def word(self) -> str:
        """What people call the metric."""
        return WORDS[self.metric].name


_NAMES = [field.name for field in fields(EpochRow)]


def best_row(rows: Sequence[EpochRow]) -> EpochRow | None:
    """Return the row with the highest score, among equals the lowest validation loss, then the earliest.

    None where no score is a number.
    """
    judged = [row for row in rows if math.isfinite(row.score)]
    return max(
        judged,
        key=lambda row: (row.score, -row.eval_loss if math.isfinite(row.eval_loss) else -math.inf),
        default=None,
    )


def kept_row(rows: Sequence[EpochRow], epoch: float | None) -> tuple[EpochRow | None, str]:
    """Return the row of the epoch whose weights were kept, and what it is: last, where none was chosen, or best.

    The best row stands for an epoch that has none. No row is returned whose score is not a number.
    """
    if epoch is None:
        return (rows[-1] if rows and math.isfinite(rows[-1].score) else None), "last"
    return next((row for row in rows if row.epoch == epoch), best_row(rows)), "best"


def observe(rows: Sequence[EpochRow], classes: int | None = None) -> str:
    """Say in one plain sentence what the last epoch shows, given the epochs before it.

    Args:
        rows: the run so far, in order; at least one.
        classes: how many labels there are; with it, an accuracy near chance is recognised.

    Returns:
        A sentence that names the numbers it rests on. It begins with what was seen: ``Broken``,
        ``Nothing learned``, ``Before training``, ``First epoch`` (or ``First evaluation``, of another one),
        ``Unstable``, ``Overfitting``, ``Improving``, ``Levelling off``, ``Step back`` or ``No better``.
    """
    checks: tuple[Callable[[], str | None], ...] = (
        lambda: _broken(rows[-1]),
        lambda: _nothing_learned(rows[-1], classes),
        lambda: _first_epoch(rows),
        lambda: _unstable(rows),
        lambda: _overfitting(rows),
        lambda: _improving(rows),
        lambda: _levelling_off(rows),
    )
    return next((sentence for check in checks if (sentence := check())), None) or _behind(rows)


def _broken(row: EpochRow) -> str | None:
    numbers = {"validation loss": row.eval_loss, f"validation {row.word}": row.score}
    bad = [f"the {name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
    return f"Broken: {' and '.join(bad)}, which is not a figure to go on with." if bad else None


def _nothing_learned(row: EpochRow, classes: int | None) -> str | None:
    if not classes or classes < 2 or row.score >= near_chance(classes):
        return None
    return (
        f"Nothing learned: accuracy {row.score:.3f} is below {near_chance(classes):.3g}, "
        f"too near chance ({1 / classes:.3g} with {classes} labels) to tell apart."
    )


def near_chance(classes: int) -> float:
    """Return the accuracy below which a classifier of so many labels counts as guessing."""
    chance = 1 / classes
    return min(1.5 * chance, chance + 0.1 * (1 - chance))


def _first_epoch(rows: Sequence[EpochRow]) -> str | None:
    row = rows[-1]
    if len(rows) > 1:
        return None
    if row.epoch == 0:
        return (
            f"Before training: {row.word} {row.score:.3f} at validation loss {row.eval_loss:.3f} is the head's start."
        )
    first = "First epoch" if row.epoch == 1 else f"First evaluation, in epoch {_epoch(row)}"
    return f"{first}: {row.word} {row.score:.3f} at validation loss {row.eval_loss:.3f}."


def _unstable(rows: Sequence[EpochRow]) -> str | None:
    before, row = rows[-2], rows[-1]
    pairs = {"validation": (before.eval_loss, row.eval_loss)}
    if row.phase == before.phase:  # what a new phase unfreezes computes otherwise in training: dropout, batch norms
        pairs = {"training": (before.train_loss, row.train_loss), **pairs}
    jumps = [
        f"the {name} loss jumped from {old:.3f} to {new:.3f}"
        for name, (old, new) in pairs.items()
        if new >= JUMP * old and new - old >= JUMP_BY
    ]
    if not jumps:
        return None
    changed = f", in the first epoch of phase {row.phase}" if row.phase != before.phase else ""
    return f"Unstable: {' and '.join(jumps)}{changed}."


def _overfitting(rows: Sequence[EpochRow]) -> str | None:
    length = 0
    while length < len(rows) - 1:
        old, new = rows[-length - 2], rows[-length - 1]
        if not (old.train_loss - new.train_loss >= MOVED and new.eval_loss - old.eval_loss >= MOVED):
            break
        length += 1
    if length < 2:
        return None
    first, last = rows[-length - 1], rows[-1]
    return (
        f"Overfitting: for {last.epoch - first.epoch:.3g} epochs the training loss fell "
        f"({first.train_loss:.3f} to {last.train_loss:.3f}) while the validation loss rose "
        f"({first.eval_loss:.3f} to {last.eval_loss:.3f})."
    )


def _improving(rows: Sequence[EpochRow]) -> str | None:
    row, best = rows[-1], best_row(rows[:-1])
    if best is None:
        return f"Improving: {row.word} {row.score:.3f} is the first that is a number."
    gain = row.score - best.score
    if gain < LEVEL:
        return None
    return f"Improving: {row.word} {row.score:.3f} is the best so far, up from {_score_of(best)}{_loss_now(rows)}."


def _levelling_off(rows: Sequence[EpochRow]) -> str | None:
    before, row, best = rows[-2], rows[-1], best_row(rows)
    moved = abs(row.score - before.score)
    if best is None or not moved < LEVEL or best.score - row.score >= LEVEL:
        return None
    same = f"{before.score:.3f}" == f"{row.score:.3f}"
    change = "as before" if same else f"hardly changed from {before.score:.3f}"
    place = "the best so far" if best is row else f"close to the best, {_score_of(best)}"
    return f"Levelling off: {row.word} {row.score:.3f}, {change}, is {place}{_loss_now(rows)}."


def _behind(rows: Sequence[EpochRow]) -> str:
    before, row, best = rows[-2], rows[-1], best_row(rows[:-1])
    reached = _score_of(best or row)
    if before.score - row.score >= LEVEL:
        return f"Step back: {row.word} fell from {before.score:.3f} to {row.score:.3f}; the best was {reached}."
    above = "barely above" if row.score > (best or row).score else "not above"
    return f"No better: {row.word} {row.score:.3f} is {above} the best so far, {reached}{_loss_now(rows)}."


def _score_of(row: EpochRow) -> str:
    return f"{row.score:.3f} in epoch {_epoch(row)}"


def _loss_now(rows: Sequence[EpochRow]) -> str:
    """Return a clause on the validation loss beside that of the epoch before."""
    old, new = rows[-2].eval_loss, rows[-1].eval_loss
    if not math.isfinite(old):
        return f"; validation loss {new:.3f}"
    if abs(new - old) < MOVED:
        same = f"{old:.3f}" == f"{new:.3f}"
        return f"; the validation loss {'stays at' if same else f'hardly moves, from {old:.3f} to'} {new:.3f}"
    return f"; the validation loss {'rose' if new > old else 'fell'} from {old:.3f} to {new:.3f}"


def write_trace(path: str | Path, rows: Sequence[EpochRow]) -> None:
    """Write rows as CSV with a header, replacing the file in one step so that a reader never sees half.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path)
    names = [name for name in _NAMES if name != "metric"]
    try:
        with whole_file(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_titles(rows[0].metric if rows else "accuracy"))
            writer.writerows([getattr(row, name) for name in names] for row in rows)
    except OSError as error:
        raise cannot_write(target, error) from error


def read_trace(path: str | Path) -> list[EpochRow]:
    """Read what `write_trace` wrote; every figure comes back to the last bit.

    Raises:
        HfftError: the file cannot be read, lacks a column or holds a figure that is none.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            found = reader.fieldnames or ()
            metric = next((name for name in WORDS if name in found), "accuracy")
            missing = [name for name in _titles(metric) if name not in found]
            if missing:
                raise HfftError(f"{path} is not a trace: it has no column {', '.join(missing)}")
            return [_parse(row, metric, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HfftError(f"cannot read the trace {path}: {error}") from error


def _titles(metric: str) -> list[str]:
    """Return the columns of a trace: the score's is called by its metric."""
    return [metric if name == "score" else name for name in _NAMES if name != "metric"]


def _parse(row: dict[str, str | None], metric: str, where: str) -> EpochRow:
    numbers: dict[str, float] = {}
    for name, title in zip((name for name in _NAMES if name != "metric"), _titles(metric), strict=True):
        if name not in ("phase", "observation"):
            text = row[title] or ""
            try:
                numbers[name] = float(text)
            except ValueError:
                raise HfftError(f"{where}: {title} is {text!r}, which is not a number") from None
    return EpochRow(phase=row["phase"] or "", observation=row["observation"] or "", metric=metric, **numbers)


def epoch_table(rows: Sequence[EpochRow], width: int = 80, encoding: str | None = "utf-8") -> str:
    """Lay rows out as a table of text: a line per epoch, with a bar for the loss and one for the score.

    Loss bars are relative to the highest validation loss, score bars run from 0 to 1. A rule marks where
    a phase begins. Observations stand on their row's line where that is wide enough, else beneath it.

    Args:
        rows: the run, in order.
        width: columns of the terminal; 60 are the least that are used.
        encoding: of the stream that the table goes to; where it has no block characters, bars are of ``#``.

    Returns:
        The lines, joined, without a newline at the end.
    """
    width = max(width, 60)
    encoding = encoding or "ascii"
    layout = _Layout(
        width, can_encode(_BLOCKS + "─", encoding), _highest_loss(rows), rows[0].word if rows else "accuracy"
    )
    lines = [layout.header()]
    for index, row in enumerate(rows):
        if index == 0 or rows[index - 1].phase != row.phase:
            lines.append(layout.rule(row.phase))
        lines.extend(layout.lines(row))
    return "\n".join(lines).encode(encoding, "replace").decode(encoding)


@dataclass(frozen=True)
class _Layout:
    width: int
    blocks: bool
    highest_loss: float
    word: str

    @property
    def bar_width(self) -> int:
        """Columns per bar: what the numbers (6 + 2 + 8 + 2 + 9 + 1, 2 + 8 + 1, 2 + 8) leave, up to 20 each."""
        return min(20, (self.width - 49) // 2)

    @property
    def table_width(self) -> int:
        return 49 + 2 * self.bar_width

    def header(self) -> str:
        loss, score = "val loss".rjust(9).ljust(10 + self.bar_width), self.word.rjust(8).ljust(9 + self.bar_width)
        return f"{'epoch':>6}  {'train':>8}  {loss}  {score}  {'seconds':>8}"

    def rule(self, phase: str) -> str:
        line = "─" if self.blocks else "-"
        title = phase if phase == PROBE else f"phase {phase}"
        text = f"{line * 2} {title} "[: self.table_width]
        return text + line * (self.table_width - len(text))

    def lines(self, row: EpochRow) -> list[str]:
        loss = f"{row.eval_loss:9.4f} {self.bar(row.eval_loss / self.highest_loss)}"
        score = f"{row.score:8.4f} {self.bar(row.score)}"
        train = "-" if math.isnan(row.train_loss) else f"{row.train_loss:.4f}"
        seconds = "-" if math.isnan(row.seconds) else f"{row.seconds:.1f}"
        line = f"{_epoch(row):>6}  {train:>8}  {loss}  {score}  {seconds:>8}"
        if not row.observation:
            return [line]
        if len(line) + 2 + len(row.observation) <= self.width:
            return [f"{line}  {row.observation}"]
        return [line, *wrap(row.observation, self.width - 1, initial_indent=" " * 8, subsequent_indent=" " * 8)]

    def bar(self, share: float) -> str:
        if not math.isfinite(share):
            return " " * self.bar_width
        share = min(max(share, 0.0), 1.0)
        if not self.blocks:
            return ("#" * round(share * self.bar_width)).ljust(self.bar_width)
        eighths = round(share * self.bar_width * 8)
        return ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(self.bar_width)


def _highest_loss(rows: Sequence[EpochRow]) -> float:
    return max((row.eval_loss for row in rows if math.isfinite(row.eval_loss) and row.eval_loss > 0), default=1.0)


def _epoch(row: EpochRow) -> str:
    return f"{round(row.epoch, 2):g}"

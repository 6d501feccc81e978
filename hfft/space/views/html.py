"""What the Space shows beside its widgets: small pieces of HTML made from results; every name is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from hfft.errors import HfftError
from hfft.explain.pipeline import PipelineTrace, Stage
from hfft.inference.runs import FinishedRun, paired
from hfft.metrics import WORDS, PairedDifference
from hfft.planning.anatomy_file import anatomy_from_dict
from hfft.report.card_metadata import BASELINE_NAMES, plain_base_name, plain_data_name, plain_policy
from hfft.report.record import CROSSED, RunRecord
from hfft.report.trace import PROBE
from hfft.space.trainings.queue import Training
from hfft.space.views.architecture import FROZEN, TRAINED, architecture_svg, count_text, operations

CSS = f"""
.dark {{--color-accent:var(--primary-400)}}
.hf-flow {{display:flex; flex-wrap:wrap; gap:12px; align-items:stretch; margin:0 !important; padding:0 !important;
  list-style:none !important}}
.hf-card {{flex:1 1 170px; min-width:150px; margin:0 !important; border:1px solid var(--border-color-primary);
  border-radius:10px; padding:12px; background:var(--background-fill-secondary)}}
.hf-card h2 {{margin:0 0 6px; font-size:15px}} .hf-card dl {{margin:0; font-size:13px}}
.hf-card dt {{color:var(--body-text-color-subdued)}} .hf-card dd {{margin:0 0 4px; font-weight:600;
  overflow-wrap:anywhere}}
.hf-card p {{display:block; font-size:13px; margin:6px 0 0}}
.hf-frozen {{border-top:5px solid {FROZEN}}} .hf-trained {{border-top:5px solid {TRAINED}}}
.hf-plain {{border-top:5px solid var(--neutral-400)}}
.hf-scroll {{overflow-x:auto; max-width:100%}}
.hf-table {{border-collapse:collapse; width:100%; font-size:14px; border:0 !important}}
.hf-table th, .hf-table td {{text-align:left; padding:6px 10px; border-bottom:1px solid var(--border-color-primary);
  vertical-align:top}}
.hf-table td.n, .hf-table th.n {{text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap}}
.hf-table th, .hf-table td, .hf-table tr {{border-left:0 !important; border-right:0 !important;
  border-top:0 !important}}
.hf-table td.w {{min-width:260px}}
.hf-table tr.hf-phase th {{font-weight:600; background:var(--background-fill-secondary); white-space:normal}}
.hf-quiz .wrap {{flex-direction:column; align-items:flex-start}}
.dark .hf-figure img {{filter:invert(.9) hue-rotate(180deg)}}
.hf-fit img {{width:100%; height:100%; object-fit:contain; padding-top:34px}}
.hf-bar {{display:block; position:relative; height:8px; border-radius:4px; overflow:hidden; margin-top:4px;
  min-width:120px; background:var(--border-color-primary)}}
.hf-bar i {{position:absolute; top:0; height:100%; background:{FROZEN}; min-width:1px}}
.hf-bar b {{position:absolute; top:0; width:3px; height:100%; margin-left:-1px; background:var(--body-text-color)}}
.hf-bar.loss i {{background:{TRAINED}}}
.hf-bar.zero::after {{content:""; position:absolute; left:50%; top:0; width:1px; height:100%;
  background:var(--body-text-color)}}
.hf-rows td:first-child {{width:100%}}
.hf-rows td:first-child, .hf-rows caption {{overflow-wrap:anywhere}}
.hf-laid {{position:relative; display:inline-block; margin:0; max-width:100%}}
.hf-laid img {{display:block; max-width:100%; max-height:320px; min-height:200px; border-radius:8px}}
.hf-laid img + img {{position:absolute; inset:0; width:100%; height:100%; opacity:var(--hf-map, .5)}}
.hf-note, .hf-note p {{font-size:13px; color:var(--body-text-color-subdued)}}
.hf-stations {{display:grid; grid-template-columns:repeat(auto-fit,minmax(130px,1fr)); gap:10px; margin:8px 0;
  padding:0; list-style:none; font-size:14px}}
.hf-stations li[aria-current] {{font-weight:600}}
.hf-progress.busy div {{width:30%; animation:hf-busy 1.6s ease-in-out infinite alternate}}
@keyframes hf-busy {{from {{margin-left:0}} to {{margin-left:70%}}}}
@media (prefers-reduced-motion: reduce) {{.hf-progress.busy div {{animation:none; width:100%; opacity:.4}}}}
.hf-table caption {{text-align:left; font-size:13px; color:var(--body-text-color-subdued); padding:0 0 4px}}
.hf-table tr.hf-best td {{font-weight:600}}
input:is([type=range], [type=radio], [type=checkbox], [role=combobox]):focus-visible,
  .hf-scroll:focus-visible {{outline:3px solid {FROZEN} !important; outline-offset:3px}}
footer .divider {{display:none}}
@media (max-width: 600px) {{.hf-chips span:not(:last-child) {{display:none}}
  #summary {{min-height:0}}
  .hf-table td.w {{min-width:200px}}}}
.hf-maps {{display:flex; flex-wrap:wrap; gap:10px; margin:8px 0}}
.hf-maps figure {{margin:0; font-size:12px; text-align:center; max-width:112px}}
.hf-maps img {{width:104px; height:auto; border-radius:6px; image-rendering:pixelated}}
.hf-step {{margin:0 0 22px}} .hf-step h2 {{margin:0 0 4px; font-size:16px}} .hf-step p {{margin:4px 0; font-size:14px}}
.hf-empty {{padding:24px; text-align:center; border:1px dashed var(--border-color-primary); border-radius:10px;
  color:var(--body-text-color-subdued)}}
.hf-progress {{height:12px; border-radius:6px; background:var(--border-color-primary); overflow:hidden; margin:8px 0}}
.hf-progress div {{height:100%; background:{TRAINED}; transition:width .3s}}
.hf-progress.frozen div {{background:{FROZEN}}}
.hf-chips {{display:flex; flex-wrap:wrap; gap:6px}}
.hf-chips span {{border:1px solid var(--border-color-primary); border-radius:12px; padding:2px 9px; font-size:13px}}
.hf-drawn {{display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr)); gap:24px}}
.hf-two {{display:grid; grid-template-columns:repeat(auto-fit,minmax(240px,1fr)); gap:16px}}
"""


def right(run: FinishedRun, split: str) -> str:
    """Return how many images of a split a run had right, or the other metric that decides."""
    found, task = run.record.metrics.get(split), run.record.solved
    score, interval = (
        (found.values.get(task.metric, math.nan), found.intervals.get(task.metric)) if found else (0, None)
    )
    text = task.reached(score, found.images if found else 0, interval)
    return f"{text}, optimistic as the best epoch was chosen on them" if run.record.optimistic(split) else text


def leading_split(run: FinishedRun) -> str:
    """Return the split whose metrics come first: one that nothing was chosen on, where there is one."""
    return next((split for split, _ in run.record.leading_metrics()), run.record.per_class_split)


def _named(split: str) -> str:
    return split if split == CROSSED else f"{split} images"


def _shared_split(runs: Sequence[FinishedRun]) -> str | None:
    """Return the first split that all runs have metrics of on the same images, the least flattering first."""
    for split, _ in runs[0].record.leading_metrics():
        images = "train" if split == CROSSED else split
        prints = {run.record.data.fingerprints.get(images, run.name) for run in runs}
        if len(prints) == 1 and all(split in run.record.metrics for run in runs):
            return split
    return None


def evaluated(run: FinishedRun) -> str:
    """Say what the confusion matrix and the mistakes were counted on, and what simpler ways reach there."""
    record = run.record
    which = "the weights of the best epoch" if record.best_epoch is not None else "the last weights"
    text = f"On the {record.per_class_split} images, with {which}: {right(run, record.per_class_split)}."
    if (first := leading_split(run)) != record.per_class_split:
        text += f" By {first}: {right(run, first)}."
    found, task = record.metrics.get(record.per_class_split), record.solved
    others = [
        f"{BASELINE_NAMES.get(name, name)}: {task.reached(values[task.metric], found.images)}"
        for name, values in record.baselines.items()
        if found and task.metric in values
    ]
    return note(text + (f" For comparison, {'; '.join(others)}." if others else "")) + _by_class(record)


def _by_class(record: RunRecord) -> str:
    """Return how far each class's predictions are to be believed; a record of an earlier version may not say."""
    rows = [
        (row.label, f"{row.support:,}", f"{row.recall:.3f}", f"{row.precision:.3f}", f"{row.confidence:.3f}")
        for row in record.per_class
        if row.confidence is not None
    ]
    if not rows:
        return ""
    heads = ("class", "images", "recall", "precision", "confidence")
    caption = (
        f"Classes on the {record.per_class_split} images. Confidence is the mean probability of what is given the "
    )
    caption += "class: at best, its precision."
    return f"<details><summary>Class by class</summary>{table(caption, heads, rows, (1, 2, 3, 4))}</details>"


def note(text: str) -> str:
    """Return a line beside what is shown."""
    return f'<p class="hf-note">{escape(text)}</p>'


def empty(text: str) -> str:
    """Return what stands where there is nothing to show, and what to do about it."""
    return f'<div class="hf-empty" role="status">{escape(text)}</div>'


def summary(run: FinishedRun | None, name: str, own: bool = False) -> str:
    """Return a line about the loaded model.

    Args:
        run: of the model; None without a record.
        name: of the model.
        own: whether a visitor trained it here, on images that have no name but that of a folder of this server.
    """
    if run is None:
        return f'<div class="hf-chips"><span>{escape(name)}</span><span>no run record</span></div>'
    record = run.record
    facts = [
        f"base {plain_base_name(record)}",
        f"trained: {plain_policy(record.policy)} ({run.trained_share:.1%} of the parameters)",
        record.solved.count(len(record.data.labels)) + ("" if own else f" of {plain_data_name(record)}"),
        f"{_named(leading_split(run))}: {right(run, leading_split(run))}",
    ]
    return '<div class="hf-chips">' + "".join(f"<span>{escape(fact)}</span>" for fact in facts) + "</div>"


def flow(trace: PipelineTrace) -> str:
    """Return the five stages as cards."""
    cards = "".join(_card(number, stage) for number, stage in enumerate(trace.stages, start=1))
    return f'<ol class="hf-flow" aria-label="The five stages">{cards}</ol>'


def _card(number: int, stage: Stage) -> str:
    kind = {"Frozen part": "hf-frozen", "Retrained part": "hf-trained", "Head": "hf-trained"}.get(
        stage.name, "hf-plain"
    )
    facts = []
    if stage.shape:
        facts.append(("Shape", " x ".join(map(str, stage.shape))))
        facts.append(("Values", f"{stage.low:.3g} to {stage.high:.3g}"))
    if stage.parts:
        facts.append(("Parameters", f"{count_text(stage.parameters)} ({stage.parameter_share:.1%})"))
        facts.append(("Arithmetic", f"{operations(stage.flops)} ({stage.flop_share:.1%})"))
        facts.append(("Parts", ", ".join(stage.parts)))
    if stage.seconds:
        facts.append(("Time", milliseconds(stage.seconds)))
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<li class="hf-card {kind}"><h2>{number}. {stage.name}</h2><dl>{rows}</dl><p>{escape(stage.note)}</p></li>'


def architecture(trace: PipelineTrace, name: str) -> str:
    """Return the drawing of the architecture, and the same figures as a table."""
    rows = [
        (
            part.part,
            "trained" if part.trained else "frozen",
            f"{part.parameters:,}",
            " x ".join(map(str, part.shape)) or "-",
            operations(part.flops),
            milliseconds(part.seconds),
        )
        for part in trace.parts
    ]
    heads = ("part", "state", "parameters", "output", "arithmetic", "time")
    figures = table("Parts of the model in order of depth", heads, rows, numbers=(2, 4, 5))
    return f'<div class="hf-drawn"><div>{architecture_svg(trace.parts, name)}</div>{figures}</div>'


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; cells are text, those of the columns `numbers` aligned to the right."""
    kinds = [' class="n"' if place in numbers else "" for place in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return _scrolling(caption, head, body)


def _scrolling(caption: str, head: str, body: str) -> str:
    """Return a table in a box that scrolls by itself where the page is narrower, with the keyboard as well."""
    return (
        f'<div class="hf-scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="hf-table">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def epochs(run: FinishedRun) -> str:
    """Return the epochs as a table with bars, phase by phase, with what each shows in words."""
    rows = run.rows
    most = max((row.eval_loss for row in rows if math.isfinite(row.eval_loss)), default=1.0) or 1.0
    images, task = run.record.data.counts.get("validation", 0), run.record.solved
    lines, number, score = [], 0, f"validation {WORDS[task.metric].name}"
    for place, row in enumerate(rows):
        if place == 0 or rows[place - 1].phase != row.phase:
            number += row.phase != PROBE
            title = escape(f"Beside the training: {PROBE}" if row.phase == PROBE else _phase(run, number, row.phase))
            lines.append(f'<tr class="hf-phase"><th scope="rowgroup" colspan="6">{title}</th></tr>')
        kept = run.record.best_epoch is not None and math.isclose(row.epoch, run.record.best_epoch)
        counted = math.isfinite(row.score) and task.chooses
        count = f"<br><small>{round(row.score * images)} of {images}</small>" if counted else ""
        lines.append(
            f"<tr{' class=hf-best' if kept else ''}>"
            + _labelled("epoch", f"{row.epoch:g}{' (kept)' if kept else ''}")
            + _labelled("training loss", _figure(row.train_loss))
            + _labelled("validation loss", _figure(row.eval_loss) + bar(row.eval_loss / most, "loss"))
            + _labelled(score, _figure(row.score) + count + bar(row.score, ""))
            + _labelled("seconds", _figure(row.seconds, 1))
            + f'<td class="w">{escape(row.observation)}</td></tr>'
        )
    heads = ("epoch", "training loss", "validation loss", score, "seconds")
    head = "".join(f'<th scope="col" class="n">{text}</th>' for text in heads) + '<th scope="col">what it shows</th>'
    caption = "Epochs, each evaluated on the validation images"
    if run.record.best_epoch is not None:
        word = WORDS[task.metric].name
        caption += f"; the weights of the epoch with the best of these are kept, so its {word} is optimistic"
    return _scrolling(caption, head, "".join(lines))


def _labelled(name: str, content: str) -> str:
    """Return a cell that carries its column's name, which is shown where a phone has no room for columns."""
    return f'<td class="n" data-label="{name}">{content}</td>'


def _phase(run: FinishedRun, number: int, name: str) -> str:
    """Say what a phase trains, as the run's plan has it."""
    plan = run.record.plan
    title = f"Phase {number} of {len(plan)}: {name}" if len(plan) > 1 else f"Phase {name}"
    if number > len(plan) or plan[number - 1].name != name:
        return title
    phase = plan[number - 1]
    share = phase.trainable_parameters / max(phase.total_parameters, 1)
    before = f", everything before {_part_of(run, phase.boundary)} is frozen" if phase.boundary else ""
    return f"{title} ({phase.trainable_parameters:,} parameters train, {share:.1%}{before})"


def _part_of(run: FinishedRun, module: str) -> str:
    """Return the part of the anatomy that a module belongs to, under the name that the drawing gives it."""
    try:
        return anatomy_from_dict(run.record.anatomy).part_of(module)
    except (HfftError, KeyError):  # a record of an earlier version
        return module


def saved(run: FinishedRun, seconds_per_image: float | None) -> str:
    """Return what the activation cache spared, in words."""
    cache, counts = run.record.cache, run.record.data.counts
    if cache.mode == "off":
        return f"<p>No activations were cached: {escape(cache.reason_off or 'the cache was off')}.</p>"
    images = counts.get("train", 0) + counts.get("validation", 0)
    needed = math.ceil(sum(phase.epochs for phase in run.record.plan)) * images
    computed = max(images - cache.hits, 0)
    spared = max(needed - computed, 0)
    text = (
        f"{cache.bytes / 1e6:,.1f} MB of activations were kept ({cache.mode}). Of {needed:,} passes through the "
        f"frozen part, {spared:,} were read from the cache instead of computed."
    )
    if seconds_per_image and spared:
        saved_seconds = _duration(spared * seconds_per_image)
        text += (
            f" At {milliseconds(seconds_per_image)} each, as measured on this machine, that is about {saved_seconds}."
        )
    return f"<p>{escape(text)}</p>"


_STATIONS = {
    "load": "Read model and images",
    "fill": "Through the frozen part, once",
    "train": "Train on what came out",
    "evaluate": "Evaluate",
}


def progress(training: Training) -> str:
    """Return how far a training is: four stations, and what it says of itself."""
    row = training.rows[-1].observation if training.rows else ""
    took = f", {training.seconds:.0f} s" if training.began is not None else ""
    if training.state == "running" and (left := training.left) is not None:
        took += f"; this station about {math.ceil(left)} s more"
    return (
        f'{_stations(training)}<p role="status" data-state="{training.state}">'
        f"<b>{training.state.capitalize()}</b>{took}. {escape(training.message)}</p><p>{escape(row)}</p>"
    )


def no_progress() -> str:
    """Return what stands in the place of the progress before the first training: the stations, none of them passed."""
    return _stations(None) + note("Nothing is training.")


def _stations(training: Training | None) -> str:
    names = list(_STATIONS)
    here = names.index(training.station) if training is not None and training.began is not None else -1
    stations = "".join(_station(training, place, here) for place in range(len(names)))
    return f'<ol class="hf-stations" aria-label="Stations of the training">{stations}</ol>'


def _station(training: Training | None, place: int, here: int) -> str:
    """Return one station: behind, here with its share where that is known, or ahead."""
    name, title = list(_STATIONS.items())[place]
    now = training is not None and place == here and training.state == "running"
    passed = place < here or (training is not None and training.state == "done")
    share = 1.0 if passed else training.share if training is not None and now else 0.0
    busy = " busy" if share is None else ""
    kind = "frozen" if name == "fill" else "trained"
    value = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    width = "" if share is None else f' style="width:{100 * share:.0f}%"'
    mark = "✓ " if passed else ""
    return (
        f'<li data-station="{name}"{" aria-current=step" if now else ""}>{mark}{title}'
        f'<div role="progressbar" aria-label="{title}" aria-valuemin="0" aria-valuemax="100"{value} '
        f'class="hf-progress {kind}{busy}"><div{width}></div></div></li>'
    )


def comparison(runs: Sequence[FinishedRun], answers: Sequence[str]) -> str:
    """Return runs side by side, with a word where their figures were not counted on the same images."""
    heads = (
        "run",
        "base",
        "what was trained",
        "images",
        "result",
        "parameters trained",
        "seconds of the run",
        "cache",
        "answer",
    )
    shared = _shared_split(runs)
    splits = [shared or leading_split(run) for run in runs]
    rows: list[tuple[str, ...]] = [
        (
            run.name,
            plain_base_name(run.record),
            plain_policy(run.record.policy),
            f"{split} of {plain_data_name(run.record)}",
            right(run, split),
            f"{run.trained_share:.1%}",
            _figure(run.record.seconds.get("total", math.nan), 1),
            run.record.cache.mode,
            answer,
        )
        for run, split, answer in zip(runs, splits, answers, strict=True)
    ]
    if shared:
        rows += _baseline_rows(runs, shared, len(heads))
    warning = "" if shared else note("These runs were evaluated on different images: their metrics do not compare.")
    return table("Runs side by side", heads, rows, numbers=(5, 6)) + warning


def _baseline_rows(runs: Sequence[FinishedRun], split: str, cells: int) -> list[tuple[str, ...]]:
    """Return what runs are held against on the images that they share, a line for each, without repetitions."""
    found = {}
    for run in runs:
        if run.record.per_class_split != split:
            continue
        for name, values in run.record.baselines.items():
            base = plain_base_name(run.record) if name == "linear_probe" else ""
            images = f"{split} of {plain_data_name(run.record)}"
            task = run.record.solved
            count = task.reached(values.get(task.metric, math.nan), run.record.metrics[split].images)
            found[name, base] = (BASELINE_NAMES.get(name, name), base, "", images, count)
    return [(*row, *[""] * (cells - len(row))) for row in found.values()]


def differences(runs: Sequence[FinishedRun]) -> str:
    """Return by how much the first run is more accurate than each other one, where both answered the same images."""
    task = runs[0].record.solved
    if not task.chooses:
        word = WORDS[task.metric].name
        return note(f"Differences are not tested pair by pair: {word} is of all images together, not right or wrong.")
    rows = []
    for other in runs[1:]:
        found = paired(runs[0], other)
        if found is None:
            rows.append((other.name, "-", "-", "-", "not validated on the same images"))
            continue
        interval = f"{found.low:+.3f} to {found.high:+.3f}"
        rows.append((other.name, f"{found.value:+.3f}", interval, f"{found.p:.2g}", _verdict(found)))
    heads = ("against", "difference", "95 % interval", "McNemar's exact p", "what it shows")
    caption = f"Accuracy of {runs[0].name} less that of each other run, on the same validation images, pair by pair"
    text = table(caption, heads, rows, numbers=(1, 2, 3))
    return text + note(
        "Intervals are Newcombe's. Epochs were chosen on these images too, which flatters every run alike."
    )


def _verdict(found: PairedDifference) -> str:
    if found.low > 0:
        return "more accurate"
    return "less accurate" if found.high < 0 else "no difference is shown: the interval holds 0"


def milliseconds(seconds: float) -> str:
    """Return a short time."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 0.95 else milliseconds(seconds)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _figure(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def bar(share: float, kind: str, mark: float | None = None) -> str:
    """Return a bar for a share of 0 to 1 of its track; of the kind ``loss`` in the colour of losses.

    A mark stands at another share.
    """
    width = min(max(share, 0.0), 1.0) * 100 if math.isfinite(share) else 0.0
    line = "" if mark is None else f'<b style="left:{mark:.1%}" title="Given from {mark:.1%} on"></b>'
    return f'<span class="hf-bar {kind}"><i style="left:0;width:{width:.1f}%"></i>{line}</span>'


def signed_bar(share: float) -> str:
    """Return a bar for a share of -1 to 1, to the right of the middle of its track, or to the left of it."""
    width = min(abs(share), 1.0) * 50
    left = 50 - width if share < 0 else 50
    kind = "loss" if share < 0 else ""
    return f'<span class="hf-bar zero {kind}"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'

"""What the Space shows beside its widgets: small pieces of HTML made from results; every name is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from hfft.explain.pipeline import PipelineTrace, Stage
from hfft.inference.runs import FinishedRun
from hfft.metrics import counted
from hfft.space.trainings.queue import Training
from hfft.space.views.architecture import FROZEN, TRAINED, architecture_svg, count_text

CSS = f"""
.hf-flow {{display:flex; flex-wrap:wrap; gap:12px; align-items:stretch; margin:0; padding:0; list-style:none}}
.hf-card {{flex:1 1 170px; min-width:150px; border:1px solid var(--border-color-primary); border-radius:10px;
  padding:12px; background:var(--background-fill-secondary)}}
.hf-card h3 {{margin:0 0 6px; font-size:15px}} .hf-card dl {{margin:0; font-size:13px}}
.hf-card dt {{color:var(--body-text-color-subdued)}} .hf-card dd {{margin:0 0 4px; font-weight:600;
  overflow-wrap:anywhere}}
.hf-card p {{font-size:13px; margin:6px 0 0}}
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
.caption-label {{left:0 !important; max-width:100% !important; font-size:12px !important; padding:2px 6px !important;
  white-space:normal !important}}
.hf-quiz .wrap {{flex-direction:column; align-items:flex-start}}
.hf-fit img {{width:100%; height:100%; object-fit:contain}}
.hf-bar {{display:block; height:6px; border-radius:3px; background:{FROZEN}; min-width:1px; margin-top:4px}}
.hf-bar.loss {{background:{TRAINED}}}
.hf-maps {{display:flex; flex-wrap:wrap; gap:10px; margin:8px 0}}
.hf-maps figure {{margin:0; font-size:12px; text-align:center; max-width:112px}}
.hf-maps img {{width:104px; height:auto; border-radius:6px; image-rendering:pixelated}}
.hf-step {{margin:0 0 22px}} .hf-step h3 {{margin:0 0 4px; font-size:16px}} .hf-step p {{margin:4px 0; font-size:14px}}
.hf-empty {{padding:24px; text-align:center; border:1px dashed var(--border-color-primary); border-radius:10px;
  color:var(--body-text-color-subdued)}}
.hf-progress {{height:12px; border-radius:6px; background:var(--border-color-primary); overflow:hidden; margin:8px 0}}
.hf-progress div {{height:100%; background:{TRAINED}; transition:width .3s}}
.hf-progress.frozen div {{background:{FROZEN}}}
.hf-chips {{display:flex; flex-wrap:wrap; gap:6px}}
.hf-chips span {{border:1px solid var(--border-color-primary); border-radius:12px; padding:2px 9px; font-size:13px}}
.hf-two {{display:grid; grid-template-columns:repeat(auto-fit,minmax(240px,1fr)); gap:16px}}
"""


def empty(text: str) -> str:
    """Return what stands where there is nothing to show, and what to do about it."""
    return f'<div class="hf-empty" role="status">{escape(text)}</div>'


def summary(run: FinishedRun | None, name: str) -> str:
    """Return a line about the loaded model."""
    if run is None:
        return f'<div class="hf-chips"><span>{escape(name)}</span><span>no run record</span></div>'
    record = run.record
    facts = [
        f"base {record.base.id}",
        f"policy {record.policy}",
        f"{run.trained_share:.1%} of parameters trained",
        f"{len(record.data.labels)} classes of {record.data.name}",
        f"{record.per_class_split} accuracy {_accuracy(run)}",
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
        facts.append(("Arithmetic", f"{count_text(stage.flops)}FLOP ({stage.flop_share:.1%})"))
        facts.append(("Parts", ", ".join(stage.parts)))
    if stage.seconds:
        facts.append(("Time", milliseconds(stage.seconds)))
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<li class="hf-card {kind}"><h3>{number}. {stage.name}</h3><dl>{rows}</dl><p>{escape(stage.note)}</p></li>'


def architecture(trace: PipelineTrace, name: str) -> str:
    """Return the drawing of the architecture, and the same figures as a table."""
    rows = [
        (
            part.part,
            "trained" if part.trained else "frozen",
            f"{part.parameters:,}",
            " x ".join(map(str, part.shape)) or "-",
            f"{count_text(part.flops)}FLOP",
            milliseconds(part.seconds),
        )
        for part in trace.parts
    ]
    heads = ("part", "state", "parameters", "output", "arithmetic", "time")
    return (
        architecture_svg(trace.parts, name)
        + "<details><summary>The same as a table</summary>"
        + table(heads, rows, numbers=(2, 4, 5))
        + "</details>"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; cells are text, those of the columns `numbers` aligned to the right."""
    kinds = [' class="n"' if place in numbers else "" for place in range(len(heads))]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return _scrolling(head, body)


def _scrolling(head: str, body: str) -> str:
    """Return a table in a box that scrolls by itself where the page is narrower, with the keyboard as well."""
    return (
        f'<div class="hf-scroll" tabindex="0"><table class="hf-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def epochs(run: FinishedRun) -> str:
    """Return the epochs as a table with bars, phase by phase, with what each shows in words."""
    rows = run.rows
    most = max((row.eval_loss for row in rows if math.isfinite(row.eval_loss)), default=1.0) or 1.0
    lines, number = [], 0
    for place, row in enumerate(rows):
        if place == 0 or rows[place - 1].phase != row.phase:
            number += 1
            lines.append(f'<tr class="hf-phase"><th colspan="6">{escape(_phase(run, number, row.phase))}</th></tr>')
        lines.append(
            f'<tr><td class="n">{row.epoch:g}</td><td class="n">{_figure(row.train_loss)}</td>'
            f'<td class="n">{_figure(row.eval_loss)}{bar(row.eval_loss / most, "loss")}</td>'
            f'<td class="n">{_figure(row.accuracy)}{bar(row.accuracy, "")}</td>'
            f'<td class="n">{_figure(row.seconds, 1)}</td><td class="w">{escape(row.observation)}</td></tr>'
        )
    heads = ("epoch", "training loss", "validation loss", "accuracy", "seconds")
    head = "".join(f'<th class="n">{text}</th>' for text in heads) + "<th>what it shows</th>"
    return _scrolling(head, "".join(lines))


def _phase(run: FinishedRun, number: int, name: str) -> str:
    """Say what a phase trains, as the run's plan has it."""
    plan = run.record.plan
    title = f"Phase {number} of {len(plan)}: {name}" if len(plan) > 1 else f"Phase {name}"
    if number > len(plan) or plan[number - 1].name != name:
        return title
    phase = plan[number - 1]
    share = phase.trainable_parameters / max(phase.total_parameters, 1)
    before = f", everything before {phase.boundary} is frozen" if phase.boundary else ""
    return f"{title} ({phase.trainable_parameters:,} parameters train, {share:.1%}{before})"


def saved(run: FinishedRun, seconds_per_image: float | None) -> str:
    """Return what the activation cache spared, in words."""
    cache, counts = run.record.cache, run.record.data.counts
    if cache.mode == "off":
        return f"<p>No activations were cached: {escape(cache.reason_off or 'the cache was off')}.</p>"
    images = counts.get("train", 0) + counts.get("validation", 0)
    needed = math.ceil(sum(phase.epochs for phase in run.record.plan)) * images
    computed = max(images - cache.hits, 0)
    spared = max(needed - computed, 0)
    own = run.record.seconds.get("prefix", 0.0) / computed if computed else 0.0
    seconds, where = (own, "in this run") if own else (seconds_per_image, "on this machine")
    text = (
        f"{cache.bytes / 1e6:,.1f} MB of activations were kept ({cache.mode}). Of {needed:,} passes through the "
        f"frozen part, {spared:,} were read from the cache instead of computed."
    )
    if seconds:
        text += f" At {milliseconds(seconds)} each, as measured {where}, that is about {_duration(spared * seconds)}."
    return f"<p>{escape(text)}</p>"


def progress(training: Training) -> str:
    """Return how far a training is."""
    percent = round(100 * training.share)
    row = training.rows[-1].observation if training.rows else ""
    what, kind = ("Computing activations", "frozen") if training.filling else ("Training", "trained")
    return (
        f'<div role="progressbar" aria-label="{what}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" class="hf-progress {kind}"><div style="width:{percent}%"></div></div>'
        f'<p data-state="{training.state}"><b>{training.state.capitalize()}</b>, {percent} %, '
        f"{training.seconds:.0f} s. {escape(training.message)}</p><p>{escape(row)}</p>"
    )


def comparison(runs: Sequence[FinishedRun], answers: Sequence[str]) -> str:
    """Return runs side by side."""
    heads = ("run", "base", "policy", "accuracy", "trained", "seconds", "cache", "answer")
    rows = [
        (
            run.name,
            run.record.base.id,
            run.record.policy,
            f"{_accuracy(run)} ({run.record.per_class_split})",
            f"{run.trained_share:.1%}",
            _figure(run.record.seconds.get("total", math.nan), 1),
            run.record.cache.mode,
            answer,
        )
        for run, answer in zip(runs, answers, strict=True)
    ]
    return table(heads, rows, numbers=(3, 4, 5))


def milliseconds(seconds: float) -> str:
    """Return a short time."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _accuracy(run: FinishedRun) -> str:
    metrics = run.record.metrics.get(run.record.per_class_split)
    return counted(run.accuracy, metrics.images) if metrics and math.isfinite(run.accuracy) else _figure(run.accuracy)


def _figure(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def bar(share: float, kind: str) -> str:
    """Return a bar for a share of 0 to 1; of the kind ``loss`` in the colour of losses."""
    width = min(max(share, 0.0), 1.0) * 100 if math.isfinite(share) else 0.0
    return f'<span class="hf-bar {kind}" style="width:{width:.1f}%"></span>'

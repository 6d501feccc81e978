// Draws the cut box from the value that views/cut.py makes, and lets its handle be dragged by mouse, touch and keys.
// Everything is written as text, never as HTML. Events: "input" when the cut moves, "release" when it is let go. The
// page knows what was chosen last as `hfftChosen.policy`: what the server answers may be about an older choice.
const part = (name) => element.querySelector(".hf-cut-" + name);
const bar = part("bar");
const handle = part("handle");
let at = -1; // number of the place where the handle is
let from = -1; // where it was when it was taken
let held = false;

const make = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text || "";
  return made;
};
const chart = () => props.value;
const places = () => (chart() && chart().places) || [];

function draw() {
  if (!chart()) return;
  const chosen = places().findIndex((place) => place.policy === window.hfftChosen?.policy);
  at = chosen < 0 ? chart().at : chosen;
  part("blocks").replaceChildren(
    ...chart().parts.map((block) => {
      const box = make("span", "hf-cut-block", block.width >= 7 ? block.name.replace("block ", "") : "");
      box.style.width = block.width + "%";
      box.title = block.title;
      return box;
    }),
  );
  drawTried();
  handle.setAttribute("aria-valuemax", places().length - 1);
  handle.setAttribute("aria-disabled", String(chart().busy));
  bar.classList.toggle("busy", chart().busy);
  show(at);
}

function drawTried() {
  const dots = chart().tried.map((tried) => {
    const dot = make("i", "hf-cut-dot");
    dot.style.left = tried.edge + "%";
    dot.style.bottom = tried.accuracy + "%";
    dot.title = tried.text;
    return dot;
  });
  const reach = chart().tried.map((tried) => {
    const line = make("i", "hf-cut-reach");
    line.style.left = tried.edge + "%";
    line.style.bottom = tried.low + "%";
    line.style.height = tried.high - tried.low + "%";
    return line;
  });
  const chance = make("i", "hf-cut-chance");
  chance.style.bottom = chart().chance + "%";
  part("dots").replaceChildren(chance, ...reach, ...dots);
  const last = chart().tried[chart().tried.length - 1];
  part("said").textContent = last ? last.text : "No cut has been tried on these images yet.";
  part("dots").setAttribute(
    "aria-label",
    "Accuracy of each cut that was tried. " + chart().tried.map((tried) => tried.text).join("; "),
  );
}

function show(index) {
  at = index;
  const place = places()[index];
  handle.hidden = !place;
  const blocks = [...part("blocks").children];
  blocks.forEach((block, number) => {
    block.classList.toggle("trained", Boolean(place) && number >= place.first);
    block.classList.toggle("other", !place);
  });
  part("facts").replaceChildren(
    ...(place ? place.facts : []).map(([name, text]) => {
      const row = make("div", "");
      row.append(make("dt", "", name), make("dd", "", text));
      return row;
    }),
  );
  part("command").textContent = place ? place.command : chart().why;
  if (!place) return;
  handle.style.left = place.edge + "%";
  handle.setAttribute("aria-valuenow", index);
  handle.setAttribute("aria-valuetext", place.title + ". " + place.facts.map((fact) => fact.join(": ")).join(". "));
}

function nearest(event) {
  const area = bar.getBoundingClientRect();
  const share = (100 * (event.clientX - area.left)) / area.width;
  const away = places().map((place) => Math.abs(place.edge - share));
  return away.indexOf(Math.min(...away));
}

const tell = (event) => {
  hfftChosen.policy = places()[at].policy;
  trigger(event, { policy: places()[at].policy, soon: places()[at].soon });
};
const rests = () => !places().length || chart().busy;

bar.addEventListener("pointerdown", (event) => {
  if (rests() || event.button) return;
  held = true;
  from = at;
  bar.setPointerCapture(event.pointerId);
  show(nearest(event));
  handle.focus({ preventScroll: true });
});
bar.addEventListener("pointermove", (event) => held && show(nearest(event)));
bar.addEventListener("pointerup", () => {
  if (held && at !== from) tell("release");
  held = false;
});
bar.addEventListener("pointercancel", () => {
  if (held) show(from);
  held = false;
});
handle.addEventListener("keydown", (event) => {
  const last = places().length - 1;
  const steps = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last };
  const go = event.key === "Enter" || event.key === " ";
  if (rests() || !(go || event.key in steps)) return;
  event.preventDefault();
  if (go) return tell("release");
  show(Math.max(0, Math.min(last, steps[event.key])));
  tell("input");
});

watch("value", draw);
draw();

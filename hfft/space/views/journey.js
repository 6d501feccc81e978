// Draws the journey of one image from the value that views/journey.py makes. Moving along the way asks nobody; a change of
// the picture asks the server (event "input"), one question at a time, the newest one next. Text is never HTML.
const find = (name) => element.querySelector(name);
const canvas = find(".canvas");
const square = find(".square");
const PATIENCE = 15000; // milliseconds after which an answer that does not come is not waited for
let at = 0;
let layer = 0;
let base = false;
let cell = null;
let spot = [0.35, 0.35]; // the square's left upper corner, in shares of the picture
let untouched = {}; // by label, what was said before anything was changed
let waiting = 0;
let again = false;

const data = () => props.value || { stops: [] };
const stop = () => data().stops[at] || { maps: [], base: [] };
const make = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name || "";
  made.textContent = text === undefined ? "" : text;
  return made;
};
const percent = (share) => (100 * share).toFixed(1) + " %";

function draw() {
  clearTimeout(waiting);
  waiting = 0;
  find(".why").textContent = data().why || "";
  find(".all").hidden = !data().stops.length;
  if (!data().stops.length) return;
  if (data().fresh) begin();
  find(".note").textContent = data().note;
  find(".note").hidden = !data().note;
  find(".seen").src = data().seen;
  find(".doubt").textContent = data().doubt;
  way();
  bars();
  show(Math.min(at, data().stops.length - 1));
  if (again) ask();
}

function begin() {
  again = false;
  untouched = Object.fromEntries(data().answers.map((each) => [each.label, each]));
  reset();
  const seen = data().stops.map((each) => each.maps.length > 0);
  at = Math.max(0, seen.lastIndexOf(true)); // where the evidence lies
  layer = 0;
  base = false;
  find(".stop").max = data().stops.length - 1;
}

function way() {
  const parts = data().stops.flatMap((each, number) => {
    const button = make("button", "part " + each.kind, each.part);
    button.type = "button";
    button.addEventListener("click", () => show(number));
    return number ? [make("span", "line", each.in), button] : [button];
  });
  find(".way").replaceChildren(...parts);
}

function bars() {
  const rows = data().answers.map((each) => {
    const row = make("div", "share");
    const track = make("span", "track");
    const bar = make("i");
    if (each.share === null) {
      const was = untouched[each.label]?.said ?? each.said;
      const said = was === each.said ? each.said : `${each.said}, ${was} untouched`;
      row.append(make("span", "", each.label), make("span"), make("span", "n", said)); // a number has no bar
      return row;
    }
    bar.style.width = 100 * each.share + "%";
    track.append(bar);
    if (each.least !== null) {
      const least = make("b", "least");
      least.style.left = 100 * each.least + "%";
      least.title = "Given from here on: " + percent(each.least);
      track.append(least);
    }
    const before = untouched[each.label]?.share;
    if (before !== undefined) {
      const mark = make("b");
      mark.style.left = 100 * before + "%";
      mark.title = "Untouched: " + percent(before);
      track.append(mark);
    }
    row.append(make("span", "", each.label), track, make("span", "n", percent(each.share)));
    return row;
  });
  find(".bars").replaceChildren(...rows);
}

function show(number) {
  at = number;
  const here = stop();
  find(".stop").value = at;
  find(".stop").setAttribute("aria-valuetext", here.part);
  [...find(".way").querySelectorAll("button")].forEach((button, place) => {
    button.setAttribute("aria-pressed", String(place === at));
    if (place === at) {
      const box = find(".way");
      const left = button.offsetLeft - box.offsetLeft - (box.clientWidth - button.offsetWidth) / 2;
      box.scrollTo({ left, behavior: "instant" });
    }
  });
  if (!here.base.length) base = false;
  const layers = base ? here.base : here.maps;
  layer = Math.min(layer, Math.max(0, layers.length - 1));
  const map = find(".map");
  map.hidden = !layers.length;
  if (layers.length) {
    map.src = layers[layer].picture;
    map.alt = `${layers[layer].name}${base ? ", base model" : ""}, bright is high`;
  }
  const shapes = here.in && here.out ? ` In ${here.in}, out ${here.out}.` : "";
  find(".said").textContent = here.text + shapes;
  outline(null);
  choices(here, layers);
}

function choices(here, layers) {
  const buttons = layers.map((each, number) => choice(each.name, number === layer, () => (layer = number)));
  if (here.base.length) {
    buttons.unshift(choice("yours", !base, () => (base = false)), choice("base model", base, () => (base = true)));
  }
  find(".layers").replaceChildren(...buttons);
}

function choice(text, pressed, act) {
  const button = make("button", "action", text);
  button.type = "button";
  button.setAttribute("aria-pressed", String(pressed));
  button.addEventListener("click", () => {
    act();
    show(at);
    [...find(".layers").children].find((each) => each.textContent === text)?.focus();
  });
  return button;
}

// Cells ----------------------------------------------------------------------------------------------------------

function outline(place) {
  cell = stop().cells ? place : null;
  const box = find(".cell");
  box.hidden = !cell;
  find(".sees").hidden = true;
  if (!cell) return;
  const [rows, columns] = stop().cells;
  cell = [Math.min(rows - 1, Math.max(0, cell[0])), Math.min(columns - 1, Math.max(0, cell[1]))];
  box.style.cssText = `left:${(100 * cell[1]) / columns}%;top:${(100 * cell[0]) / rows}%;width:${100 / columns}%;height:${100 / rows}%`;
  find(".said").textContent = `Cell ${cell[0] + 1}, ${cell[1] + 1} of ${rows} x ${columns}${seen(rows, columns)}`;
}

// Outlines what the cell sees, and says so.
function seen(rows, columns) {
  const side = stop().sees;
  if (!side) return " lies over this part of the picture; what it sees was not measured.";
  const [middle, across] = [(cell[0] + 0.5) / rows, (cell[1] + 0.5) / columns];
  const edges = [middle, across].map((at) => [Math.max(0, at - side / 2), Math.min(1, at + side / 2)]);
  const [[top, bottom], [left, right]] = edges;
  const box = find(".sees");
  box.hidden = false;
  box.style.cssText = `left:${100 * left}%;top:${100 * top}%;width:${100 * (right - left)}%;height:${100 * (bottom - top)}%`;
  const share = Math.round(100 * (bottom - top) * (right - left));
  return `: 90 % of what it depends on lies within the dashed frame, ${share} % of the picture (by gradient, as measured for the middle cell).`;
}

canvas.addEventListener("pointermove", (event) => {
  if (dragged || !stop().cells) return;
  const area = find(".seen").getBoundingClientRect();
  const [rows, columns] = stop().cells;
  const [x, y] = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  outline(x < 0 || y < 0 || x > 1 || y > 1 ? null : [Math.floor(y * rows), Math.floor(x * columns)]);
});
canvas.addEventListener("pointerleave", () => outline(null));
canvas.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!move || event.target !== canvas || !stop().cells) return;
  event.preventDefault();
  outline(cell ? [cell[0] + move[0], cell[1] + move[1]] : [0, 0]);
});

// What if --------------------------------------------------------------------------------------------------------

let dragged = null;
const number = (name) => Number(find(name).value);
const side = () => number(".size") / 100;

function reset() {
  find(".cover").checked = false;
  [".turn", ".dark", ".crop"].forEach((name) => (find(name).value = 0));
  place();
}

function place() {
  square.hidden = !find(".cover").checked;
  spot = spot.map((value) => Math.min(1 - side(), Math.max(0, value)));
  square.style.cssText = `left:${100 * spot[0]}%;top:${100 * spot[1]}%;width:${100 * side()}%;height:${100 * side()}%`;
}

function ask() {
  place();
  again = Boolean(waiting);
  if (waiting) return;
  waiting = setTimeout(() => {
    waiting = 0;
    if (again) ask();
  }, PATIENCE);
  const cover = find(".cover").checked ? [...spot, side(), side()] : null;
  trigger("input", { change: { crop: number(".crop") / 100, turn: number(".turn"), dark: number(".dark") / 100, cover } });
}

[".size", ".turn", ".dark", ".crop"].forEach((name) =>
  find(name).addEventListener("input", () => (name !== ".size" || find(".cover").checked ? ask() : place())),
);
find(".cover").addEventListener("change", ask);
find(".undo").addEventListener("click", () => {
  reset();
  ask();
});
canvas.addEventListener("dragstart", (event) => event.preventDefault()); // the browser's own dragging of pictures
square.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  event.preventDefault();
  square.focus({ preventScroll: true });
  const area = canvas.getBoundingClientRect();
  dragged = [(event.clientX - area.left) / area.width - spot[0], (event.clientY - area.top) / area.height - spot[1]];
  square.setPointerCapture(event.pointerId);
  outline(null);
});
square.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  const area = canvas.getBoundingClientRect();
  spot = [(event.clientX - area.left) / area.width - dragged[0], (event.clientY - area.top) / area.height - dragged[1]];
  ask();
});
["pointerup", "pointercancel"].forEach((kind) => square.addEventListener(kind, () => (dragged = null)));
square.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  spot = [spot[0] + 0.05 * move[0], spot[1] + 0.05 * move[1]];
  ask();
});
find(".stop").addEventListener("input", () => show(number(".stop")));
find(".strength").addEventListener("input", () => (find(".map").style.opacity = number(".strength") / 100));
find(".map").style.opacity = number(".strength") / 100;
watch("value", draw);
draw();

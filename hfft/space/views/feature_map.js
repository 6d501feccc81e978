// Draws images as points, before and after fine-tuning, from the value that views/feature_map.py makes. Which image a point
// is, the server shows (event "input"). Text is never HTML.
const find = (name) => element.querySelector(name);
const SVG = "http://www.w3.org/2000/svg";
const NEAR = 40; // units within which a point is pointed at
const SPLITS = ["validation", "train"]; // the larger points first, where two are equally near
const data = () => props.value || { sides: [] };
let rings = [];
let asked = "";

const make = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name || "";
  made.textContent = text === undefined ? "" : text;
  return made;
};
const shape = (kind, attributes) => {
  const made = document.createElementNS(SVG, kind);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
};

function draw() {
  const { sides, why, labels, validation } = data();
  find(".why").textContent = why || "";
  find(".all").hidden = !sides.length;
  asked = "";
  if (!sides.length) return;
  rings = [];
  find(".panels").replaceChildren(...sides.map(panel));
  legend();
  find(".star").textContent = data().star;
  find(".star").hidden = !data().star;
  find(".note").textContent = data().note;
  find(".pick").max = validation.length - 1;
  find(".pick").value = 0;
  if (validation.length) say("validation", 0); // its image came with the map
}

function panel(side) {
  const figure = make("figure");
  const box = shape("svg", { viewBox: "0 0 1000 1000", role: "img", "aria-label": `${data().train.length} training and ${data().validation.length} validation images, ${side.title}` });
  side.train.forEach(([cx, cy], row) =>
    box.append(shape("circle", { cx, cy, r: 7, fill: colour("train", row), opacity: 0.45 })),
  );
  side.validation.forEach((point, row) => box.append(mark(point, row)));
  const ring = shape("circle", { r: 26, class: "ring", visibility: "hidden" });
  rings.push([ring, side]);
  box.append(ring);
  if (side.star) box.append(star(side.star));
  box.addEventListener("pointermove", (event) => point(event, box, side));
  box.addEventListener("click", (event) => point(event, box, side));
  figure.append(make("figcaption", "", side.title), box, make("p", "hf-note", side.share));
  return figure;
}

const colour = (split, row) => data().colours[data()[split][row]];

function mark([x, y], row) {
  if (data().said[row] === data().validation[row]) {
    return shape("circle", { cx: x, cy: y, r: 12, fill: colour("validation", row), class: "dot" });
  }
  const cross = shape("g", { class: "wrong" });
  const d = `M${x - 14} ${y - 14}L${x + 14} ${y + 14}M${x + 14} ${y - 14}L${x - 14} ${y + 14}`;
  cross.append(shape("path", { d, class: "under" }), shape("path", { d, stroke: colour("validation", row) }));
  return cross;
}

function star([x, y]) {
  const corners = [...Array(10).keys()].map((number) => {
    const [angle, reach] = [(number * Math.PI) / 5 - Math.PI / 2, number % 2 ? 15 : 36];
    return `${Math.round(x + reach * Math.cos(angle))},${Math.round(y + reach * Math.sin(angle))}`;
  });
  return shape("polygon", { points: corners.join(" "), class: "photo" });
}

function legend() {
  const items = data().told
    ? data().labels.map((label, number) => {
        const item = make("li");
        const dot = make("i");
        dot.style.background = data().colours[number];
        item.append(dot, label);
        return item;
      })
    : [make("li", "", `${data().labels.length} classes; their colours repeat`)];
  find(".legend").replaceChildren(...items);
}

function point(event, box, side) {
  const area = box.getBoundingClientRect();
  const [x, y] = [(1000 * (event.clientX - area.left)) / area.width, (1000 * (event.clientY - area.top)) / area.height];
  let best = [NEAR, "", 0];
  SPLITS.forEach((split) =>
    side[split].forEach(([px, py], row) => {
      const away = Math.hypot(px - x, py - y);
      if (away < best[0]) best = [away, split, row];
    }),
  );
  if (best[1]) choose(best[1], best[2]);
}

function choose(split, row) {
  if (asked === `${split} ${row}`) return;
  say(split, row);
  if (split === "validation") find(".pick").value = row;
  trigger("input", { split, row });
}

function say(split, row) {
  asked = `${split} ${row}`;
  rings.forEach(([ring, side]) => {
    ring.setAttribute("cx", side[split][row][0]);
    ring.setAttribute("cy", side[split][row][1]);
    ring.setAttribute("visibility", "visible");
  });
  const label = data().labels[data()[split][row]];
  const taken = data().labels[data().said[row]];
  find(".said").textContent =
    split === "train"
      ? `A training image of ${label}.`
      : `A validation image of ${label}, taken for ${taken}${taken === label ? "." : ": a mistake."}`;
}

find(".pick").addEventListener("input", () => choose("validation", Number(find(".pick").value)));
watch("value", draw);
draw();

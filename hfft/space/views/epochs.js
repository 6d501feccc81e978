// Draws a training epoch by epoch from the value that views/epochs.py makes: a cursor in the curves, the confusion matrix,
// and pictures that wander to the class that they are taken for. Everything is written as text, never as HTML.
const find = (name) => element.querySelector(name);
const slider = find("input");
const play = find(".play");
const SVG = "http://www.w3.org/2000/svg";
const PACE = 900; // milliseconds that an epoch is shown when it plays
let at = 0;
let timer = null;
let chosen = -1; // number of the image whose probabilities are shown

const data = () => props.value || { epochs: [] };
const make = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name || "";
  made.textContent = text === undefined ? "" : text;
  return made;
};
const drawn = (kind, attributes, text) => {
  const made = document.createElementNS(SVG, kind);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  if (text !== undefined) made.textContent = text;
  return made;
};
const percent = (share) => {
  const near = share !== 0 && share !== 1 && (share > 0.995 || share < 0.005);
  return (100 * share).toFixed(near ? 1 : 0) + " %";
};

function draw() {
  stop();
  const epochs = data().epochs;
  find(".why").textContent = data().why || "";
  find(".all").hidden = !epochs.length;
  if (!epochs.length) return;
  chosen = -1;
  slider.max = epochs.length - 1;
  find(".note").textContent = data().note;
  find(".plots").replaceChildren(
    plot("Accuracy", [["validation", "accuracy", "accuracy"]], 1),
    plot("Loss (cross-entropy)", [["training", "train", "train"], ["validation", "loss", "loss"]], 0),
  );
  heap();
  show(Math.max(0, epochs.findIndex((epoch) => epoch.kept)));
}

// Curves ---------------------------------------------------------------------------------------------------------

const WIDE = 420, HIGH = 170, LEFT = 44, RIGHT = 12, TOP = 26, FOOT = 22;
const across = (place) => LEFT + ((WIDE - LEFT - RIGHT) * place) / Math.max(1, data().epochs.length - 1);

function plot(title, lines, most) {
  const epochs = data().epochs;
  const values = lines.flatMap(([, key]) => epochs.map((epoch) => epoch[key])).filter((value) => value !== null);
  const top = most || Math.max(...values, 1e-9);
  const up = (value) => HIGH - FOOT - ((HIGH - FOOT - TOP) * value) / top;
  const figure = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title + " by epoch" });
  figure.append(drawn("text", { x: LEFT, y: 14, class: "title" }, title));
  [0, top / 2, top].forEach((value) => {
    figure.append(drawn("line", { x1: LEFT, x2: WIDE - RIGHT, y1: up(value), y2: up(value), class: "grid" }));
    const text = most ? percent(value) : value.toPrecision(2);
    figure.append(drawn("text", { x: LEFT - 6, y: up(value) + 4, class: "tick", "text-anchor": "end" }, text));
  });
  lines.forEach(([name, key, kind], number) => {
    const points = epochs.map((epoch, place) => [place, epoch[key]]).filter(([, value]) => value !== null);
    const path = points.map(([place, value]) => `${across(place)},${up(value)}`).join(" ");
    figure.append(drawn("polyline", { points: path, class: "line " + kind }));
    points.forEach(([place, value]) =>
      figure.append(drawn("circle", { cx: across(place), cy: up(value), r: 3, class: "dot " + kind })),
    );
    const x = WIDE - RIGHT - 90 * (lines.length - number) + 20;
    if (lines.length > 1) {
      figure.append(drawn("line", { x1: x - 18, x2: x - 4, y1: 10, y2: 10, class: "line " + kind }));
      figure.append(drawn("text", { x, y: 14, class: "tick" }, name));
    }
  });
  const every = Math.ceil(epochs.length / 8);
  epochs.forEach((epoch, place) => {
    if (place % every === 0)
      figure.append(
        drawn("text", { x: across(place), y: HIGH - 6, class: "tick", "text-anchor": "middle" }, epoch.name),
      );
  });
  figure.append(drawn("line", { y1: TOP - 6, y2: HIGH - FOOT, class: "cursor" }));
  return figure;
}

// Pictures -------------------------------------------------------------------------------------------------------

function heap() {
  const pictures = data().images;
  find(".heap").hidden = !pictures.length;
  const shown = [...new Set(pictures.flatMap((image) => [image.label, ...image.said]))].sort((a, b) => a - b);
  const head = shown.map((label) => make("b", "", data().labels[label]));
  const buttons = pictures.map((image, number) => {
    const button = make("button");
    button.type = "button";
    const picture = make("img");
    picture.src = image.picture;
    picture.alt = "";
    button.append(picture);
    button.addEventListener("click", () => {
      chosen = chosen === number ? -1 : number;
      show(at);
    });
    return button;
  });
  find(".columns").replaceChildren(...head, ...buttons);
  find(".columns").dataset.shown = JSON.stringify(shown);
}

function sort() {
  const box = find(".columns");
  if (!data().images.length) return;
  const shown = JSON.parse(box.dataset.shown);
  const width = 100 / shown.length;
  const beside = Math.max(1, Math.floor((box.clientWidth || 600) / shown.length / 38)); // pictures beside each other
  const filled = shown.map(() => 0);
  [...box.querySelectorAll("b")].forEach((head, place) => {
    head.style.left = place * width + "%";
    head.style.width = width + "%";
  });
  [...box.querySelectorAll("button")].forEach((button, number) => {
    const image = data().images[number];
    const said = image.said[at];
    const column = shown.indexOf(said);
    const place = filled[column]++;
    button.style.left = `calc(${column * width}% + ${(place % beside) * 38 + 2}px)`;
    button.style.top = 24 + Math.floor(place / beside) * 38 + "px";
    const wrong = said !== image.label;
    button.classList.toggle("wrong", wrong);
    button.setAttribute("aria-pressed", String(number === chosen));
    const sure = percent(image.sure[at]);
    button.setAttribute(
      "aria-label",
      `${data().labels[image.label]}: taken for ${data().labels[said]} (${sure})${wrong ? ", wrong" : ""}`,
    );
    button.title = button.getAttribute("aria-label");
  });
  box.style.height = 30 + Math.ceil(Math.max(...filled) / beside) * 38 + "px";
}

function one() {
  const image = data().images[chosen];
  if (!image) {
    find(".one").replaceChildren(
      ...(data().images.length ? [make("p", "hf-note", "Press a picture to see its probabilities, epoch by epoch.")] : []),
    );
    return;
  }
  const head = make("p", "", `A ${data().labels[image.label]} (${image.file}), ${data().epochs[at].text.split(":")[0].toLowerCase()}:`);
  const rows = [...image.shares]
    .sort((a, b) => b.share[at] - a.share[at])
    .slice(0, 4)
    .map((each) => {
      const row = make("div", "share" + (each.label === image.label ? " true" : ""));
      const track = make("span", "track");
      const bar = make("i");
      bar.style.width = 100 * each.share[at] + "%";
      track.append(bar);
      row.append(make("span", "", data().labels[each.label]), track, make("span", "n", percent(each.share[at])));
      return row;
    });
  find(".one").replaceChildren(head, ...rows);
}

// Matrix ---------------------------------------------------------------------------------------------------------

function matrix() {
  const box = find(".matrix");
  box.hidden = !data().matrix.length;
  if (box.hidden) return;
  const labels = data().labels;
  const counts = data().matrix[at];
  const table = make("table");
  table.append(make("caption", "", "Confusion matrix: true classes in rows, answers in columns"));
  const head = make("tr");
  head.append(make("td"));
  labels.forEach((label) => {
    const cell = make("th", "column");
    cell.scope = "col";
    cell.append(make("span", "", label));
    head.append(cell);
  });
  table.append(head);
  counts.forEach((row, number) => {
    const line = make("tr");
    const name = make("th", "", labels[number]);
    name.scope = "row";
    line.append(name);
    const all = Math.max(1, row.reduce((sum, count) => sum + count, 0));
    row.forEach((count, place) => {
      const cell = make("td", place === number ? "right" : "wrong", count || "");
      cell.style.setProperty("--share", (count ? 8 + (52 * count) / all : 0) + "%");
      line.append(cell);
    });
    table.append(line);
  });
  box.replaceChildren(table);
}

// Moving ---------------------------------------------------------------------------------------------------------

function show(place) {
  at = place;
  const epoch = data().epochs[at];
  slider.value = at;
  slider.setAttribute("aria-valuetext", epoch.text);
  find("output").textContent = epoch.name + (epoch.kept ? " (kept)" : "");
  find(".said").textContent = epoch.text + ".";
  element.querySelectorAll(".cursor").forEach((line) => {
    line.setAttribute("x1", across(at));
    line.setAttribute("x2", across(at));
  });
  matrix();
  sort();
  one();
}

function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "▶ Play";
  play.setAttribute("aria-pressed", "false");
}

play.addEventListener("click", () => {
  if (timer !== null) return stop();
  if (at >= data().epochs.length - 1) show(0);
  play.textContent = "❚❚ Stop";
  play.setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    if (!element.isConnected || at >= data().epochs.length - 1) return stop();
    show(at + 1);
  }, PACE);
});
slider.addEventListener("input", () => {
  stop();
  show(Number(slider.value));
});
new ResizeObserver(() => data().epochs.length && sort()).observe(find(".columns"));
watch("value", draw);
draw();

// Classifies photos in the browser: preprocess.onnx makes the model's input, onnx/model.onnx answers.
const SHOWN = 5;
const GPU_TOLERANCE = 0.02; // a probability of the sample may differ by this from what was written at export
const at = (id) => document.getElementById(id);
const about = await (await fetch("about.json")).json();

function say(text) {
  at("status").textContent = text;
}

// One way of running the graphs: on the GPU, or in WebAssembly.
async function runner(kind) {
  const ort = await import(kind === "webgpu" ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  const create = (file, provider) => ort.InferenceSession.create(file, { executionProviders: [provider] });
  const front = await create("preprocess.onnx", "wasm");
  const model = await create("onnx/model.onnx", kind);
  return async ({ data, width, height }) => {
    const images = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const { pixel_values } = await front.run({ images });
    const found = await model.run({ pixel_values });
    return {
      probabilities: Array.from(found.probabilities.data),
      unknownScore: found.unknown_score ? found.unknown_score.data[0] : null,
    };
  };
}

function sample() {
  const { width, height } = about.sample;
  const data = new Uint8Array(3 * width * height);
  for (let row = 0, place = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      for (const value of [column * 4, row * 5, row * column]) data[place++] = value;
  return { data, width, height };
}

// A GPU that answers the sample otherwise than the export did is left alone.
async function start() {
  if (navigator.gpu && new URLSearchParams(location.search).get("on") !== "wasm") {
    try {
      if (await navigator.gpu.requestAdapter()) {
        const run = await runner("webgpu");
        const { probabilities } = await run(sample());
        const apart = probabilities.map((value, place) => Math.abs(value - about.sample.probabilities[place]));
        if (Math.max(...apart) <= GPU_TOLERANCE) return { run, kind: "webgpu", where: "on the GPU" };
        console.warn("The GPU answers otherwise than the model; WebAssembly it is.");
      }
    } catch (error) {
      console.warn("The GPU does not run the model; WebAssembly it is.", error);
    }
  }
  const run = await runner("wasm");
  await run(sample());
  return { run, kind: "wasm", where: "on the processor" };
}

class TooLong extends Error {}

// Upright RGB bytes. Photos much larger than the model's input are scaled down by the browser first.
async function pixels(source) {
  const bitmap = source instanceof Blob ? await createImageBitmap(source, { colorSpaceConversion: "none" }) : source;
  const wide = bitmap.videoWidth ?? bitmap.width;
  const high = bitmap.videoHeight ?? bitmap.height;
  if (Math.max(wide, high) > about.aspect * Math.min(wide, high)) throw new TooLong(`${wide} x ${high} pixels`);
  const scale = Math.min(1, about.most / Math.min(wide, high));
  const [width, height] = [wide, high].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { image: { data, width, height }, canvas };
}

const ready = start();

async function classify(source) {
  const { run } = await ready;
  const { image, canvas } = await pixels(source);
  const { probabilities, unknownScore } = await run(image);
  const order = probabilities.map((_, place) => place).sort((a, b) => probabilities[b] - probabilities[a]);
  const top = order.slice(0, SHOWN).map((place) => ({ label: about.labels[place], probability: probabilities[place] }));
  return { label: top[0].label, top, unknownScore, unknown: unknownScore !== null && !(unknownScore <= 1), canvas };
}

function show({ label, top, unknown, unknownScore }) {
  at("verdict").textContent = unknown ? "None of these" : label;
  at("unknown").hidden = !unknown;
  at("unknown").textContent = unknown
    ? `This photo is unlike what the model was trained on (${unknownScore.toFixed(2)} times as far as known photos). ` +
      "The nearest labels:"
    : "";
  at("bars").replaceChildren(
    ...top.map(({ label, probability }) => {
      const row = document.createElement("li");
      const bar = Object.assign(document.createElement("span"), { className: "bar" });
      bar.style.width = `${Math.max(0.5, 100 * probability)}%`;
      const name = Object.assign(document.createElement("span"), { textContent: label });
      const share = Object.assign(document.createElement("span"), { textContent: `${(100 * probability).toFixed(1)} %` });
      row.append(name, share, bar);
      return row;
    }),
  );
  at("answer").hidden = false;
}

let asked = 0;
async function look(source) {
  const turn = ++asked;
  at("answer").hidden = true;
  document.body.dataset.answered = "";
  say("Looking…");
  try {
    const answer = await classify(source);
    if (turn !== asked) return; // another photo came meanwhile
    at("photo").src = answer.canvas.toDataURL("image/jpeg");
    at("photo").hidden = false;
    show(answer);
    say(`Answered ${(await ready).where} of this device.`);
    document.body.dataset.answered = answer.label;
  } catch (error) {
    console.error(error);
    say(
      error instanceof TooLong
        ? `This photo is too long (${error.message}): its longer side may be at most ${about.aspect} times the other.`
        : "This photo cannot be read: choose another, as JPEG, PNG or WebP.",
    );
  }
}

const video = at("video");
function stopCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  video.hidden = true;
  at("camera").textContent = "Use the camera";
}

at("camera").addEventListener("click", async () => {
  if (video.srcObject) {
    await look(video);
    stopCamera();
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
    video.hidden = false;
    at("photo").hidden = true;
    at("camera").textContent = "Take the photo";
  } catch (error) {
    stopCamera();
    say(`The camera cannot be used (${error.name}): allow it, or choose a photo.`);
  }
});
at("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) look(target.files[0]);
  target.value = "";
});
const drop = at("drop");
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) look(event.dataTransfer.files[0]);
  });

window.hfft = { about, ready, classify, pixels };
try {
  const { where } = await ready;
  say(`Ready. The model runs ${where} of this device.`);
  document.body.dataset.ready = where;
} catch (error) {
  console.error(error);
  say(`The model cannot be run in this browser: ${error.message}`);
}
if (navigator.serviceWorker) {
  const { active } = await navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  // Of the two runtimes the one that this browser uses, so that it is there without a network as well.
  const { kind } = await ready;
  navigator.serviceWorker.onmessage = () => (document.body.dataset.kept = "yes");
  active.postMessage(about.runtime[kind].map((name) => new URL(`ort/${name}`, document.baseURI).href));
}

// Takes pictures with the camera for as long as a button is held, by mouse, touch, Space or Enter, and hands them over
// when it is let go. The camera is asked for when it is turned on, and let go of when it is turned off or not seen any
// more. Event: "input".
const EVERY = 250; // milliseconds between pictures
const MOST = 40; // pictures of one recording
const SIDE = 320; // pixels of a picture's longer side
const find = (name) => element.querySelector(name);
const video = find("video");
const turn = find(".turn");
const hold = find(".hold");
const say = (text) => (find("p").textContent = text);
const canvas = document.createElement("canvas");
let frames = [];
let timer = null;
let asking = false; // a second press before the answer would open the camera twice

async function on() {
  if (!navigator.mediaDevices) return say("Browsers lend a camera only to pages that come by https or from this machine.");
  asking = true;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
    await video.play();
  } catch (error) {
    off();
    return say("There is no camera that this page may use (" + (error.name || error) + ").");
  } finally {
    asking = false;
  }
  if (!element.offsetParent) return off();
  video.srcObject.getVideoTracks()[0].addEventListener("ended", () => {
    off();
    say("The camera is gone; turn it on again.");
  });
  shown(true);
  say("Hold the button, with the mouse, a finger, Space or Enter: four pictures a second.");
}

function off() {
  release();
  (video.srcObject ? video.srcObject.getTracks() : []).forEach((track) => track.stop());
  video.srcObject = null;
  shown(false);
  say("");
}

function shown(live) {
  video.hidden = !live;
  hold.disabled = !live;
  turn.textContent = live ? "Turn the camera off" : "Turn the camera on";
  turn.setAttribute("aria-pressed", String(live));
}

function snap() {
  const share = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight, 1));
  canvas.width = Math.max(1, Math.round(share * video.videoWidth));
  canvas.height = Math.max(1, Math.round(share * video.videoHeight));
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  frames.push(canvas.toDataURL("image/jpeg", 0.9));
  say(frames.length + (frames.length === 1 ? " picture" : " pictures") + " so far");
  if (frames.length >= MOST) release();
}

function press() {
  const name = document.querySelector("#class-name textarea, #class-name input");
  if (timer !== null || hold.disabled || !video.videoWidth) return;
  if (!name.value.trim()) {
    say("Give the class a name first.");
    return name.focus();
  }
  frames = [];
  hold.classList.add("held");
  timer = setInterval(snap, EVERY);
  snap();
}

function release() {
  if (timer === null) return;
  clearInterval(timer);
  timer = null;
  hold.classList.remove("held");
  say(frames.length + (frames.length === 1 ? " picture" : " pictures") + " recorded");
  trigger("input", { frames });
}

turn.addEventListener("click", () => (video.srcObject ? off() : asking || on()));
new ResizeObserver(() => element.offsetParent || off()).observe(element); // taken off the page, or in a tab that was left
hold.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  hold.setPointerCapture(event.pointerId);
  press();
});
["pointerup", "pointercancel"].forEach((kind) => hold.addEventListener(kind, release));
hold.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch opens one
hold.addEventListener("keydown", (event) => {
  if (event.key !== " " && event.key !== "Enter") return;
  event.preventDefault();
  if (!event.repeat) press();
});
hold.addEventListener("keyup", (event) => (event.key === " " || event.key === "Enter") && release());
hold.addEventListener("blur", release);

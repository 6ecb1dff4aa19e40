// Web page: camera, dropped images, predicted signs and the spelled line.

import { Browser } from "./browser.js";
import { Camera, excuse, GUIDE } from "./camera.js";
import { drawings, keepKey, networks, ranked, recognise, Trouble } from "./service.js";
import * as show from "./show.js";
import { at } from "./show.js";
import { Average, Line, Speller, written } from "./speller.js";

const QUALITY = 0.92; // of the JPEG that is sent
const PAUSE = 40; // milliseconds from frame to frame at the least: 25 a second are enough
const LARGEST = 1024; // pixels of a side of a dropped image that the browser itself looks at

const camera = new Camera(at("video"));
const speller = new Speller();
const average = new Average();
const line = new Line();
const browser = new Browser();
const state = { networks: [], network: null, isBrowser: false, threshold: 0, rate: 0, latency: 0, run: 0 };

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

const retried = (error) => (error.wait ? `${error.message} This page tries again by itself.` : error.message);

// -- the networks

async function begin() {
  for (;;) {
    try {
      const found = await networks();
      state.networks = found.models;
      choices(found);
      show.notice();
      return;
    } catch (error) {
      show.notice(retried(error));
      if (error.status === 401) return void at("key-dialog").showModal();
      await pause(error.wait || 5);
    }
  }
}

function choices({ models, browser_runtime: hasRuntime }) {
  const select = at("model");
  select.replaceChildren(...models.map(({ name, default: isDefault }) => new Option(name, name, isDefault, isDefault)));
  select.disabled = false;
  at("start").disabled = false;
  const choice = document.querySelector("input[value=browser]");
  choice.disabled = !hasRuntime;
  choose();
  if (!hasRuntime) at("where").textContent += " Running in this browser needs files that npm brings: make page.";
}

function choose() {
  const network = state.networks.find(({ name }) => name === at("model").value);
  state.network = network;
  at("card").hidden = !network.card;
  at("no-card").hidden = Boolean(network.card);
  if (network.card) at("card").href = network.card;
  const kind = network.threshold_source === "fallback" ? "which stands in for a missing one" : "its threshold";
  at("threshold").textContent = `${show.percent(network.threshold)}, ${kind}`;
  at("known").textContent = network.classes.length;
  at("hint").textContent = network.hands
    ? "Show one hand, anywhere in the image."
    : "Let one hand fill the square, in front of a plain background.";
  at("mirror-field").hidden = Boolean(network.browser.hands?.options.mirror); // left hands are by themselves
  if (at("mirror-field").hidden) at("mirror").checked = false;
  if (camera.isOn) frameIt();
  setThreshold(kept(`least:${network.name}`));
  forget();
  where();
  drawings(network).then(
    (signs) => network === state.network && show.drawings(signs),
    () => show.drawings({}), // they only help
  );
}

/** Begin anew: what was seen before counts no more. */
function forget() {
  speller.forget();
  average.forget();
}

async function where() {
  const { network } = state;
  state.isBrowser = document.querySelector("input[name=where]:checked").value === "browser";
  forget();
  if (!state.isBrowser) {
    at("where").textContent = `Each image is sent to the service at ${location.host}, and not kept there.`;
    return;
  }
  at("where").textContent = "Loading the network …";
  try {
    await browser.prepare(network);
    const { bytes, hands, precision } = network.browser;
    const size = ((bytes + (hands?.bytes ?? 0)) / 2 ** 20).toFixed(1);
    const what = hands ? `networks that find and read the hand (${size} MiB) run` : `${precision} network (${size} MiB) runs`;
    at("where").textContent = `Nothing leaves this computer: the ${what} in this browser.`;
  } catch (error) {
    if (network !== state.network) return; // another one was chosen meanwhile
    document.querySelector("input[value=service]").checked = true;
    await where();
    show.notice(error.message);
  }
}

// -- one image

const blobOf = (canvas) => new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));

async function look(canvas, isFilm = false) {
  const { network, isBrowser } = state;
  const { width, height } = canvas;
  const found = await (isBrowser ? browser.recognise(network, canvas, isFilm) : recognise(network, await blobOf(canvas)));
  return { ...found, width, height };
}

// -- settings, which the browser keeps where it is allowed to

function kept(name) {
  try {
    return Number(localStorage.getItem(`signlang-${name}`)) || null;
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(`signlang-${name}`);
    else localStorage.setItem(`signlang-${name}`, value);
  } catch {
    // they then last as long as the page
  }
}

function setHold(seconds) {
  speller.seconds = seconds;
  at("hold").value = seconds;
  at("hold-shown").textContent = `${seconds.toFixed(1)} s`;
}

/** Set the share from which on a sign is sure; null: that of the network. */
function setThreshold(share) {
  state.threshold = share ?? state.network.threshold;
  at("least").value = state.threshold;
  at("least-shown").textContent = show.percent(state.threshold);
  at("own").hidden = share === null;
}

// -- the camera

async function toggle() {
  if (camera.isOn) return stop();
  at("start").disabled = true;
  try {
    await camera.start(at("camera").value, () => {
      stop();
      show.notice("The camera is gone. Start it again, or choose images below.");
    });
    show.notice();
    frameIt();
    await cameras();
    at("hint").hidden = true;
    document.body.classList.add("signing");
    at("start").textContent = "Stop the camera";
    watch(++state.run);
  } catch (error) {
    stop();
    show.notice(excuse(error));
  } finally {
    at("start").disabled = false;
  }
}

function stop() {
  state.run += 1;
  camera.stop();
  forget();
  show.nothing();
  document.body.classList.remove("signing");
  at("guide").hidden = true;
  at("hint").hidden = false;
  at("start").textContent = "Start the camera";
}

function frameIt() {
  const { videoWidth: width, videoHeight: height } = at("video");
  at("stage").style.aspectRatio = `${width} / ${height}`;
  at("stage").classList.toggle("selfie", camera.isSelfie);
  at("guide").style.width = `${(100 * GUIDE * Math.min(width, height)) / width}%`;
  at("guide").hidden = state.network.hands;
}

async function cameras() {
  const all = await Camera.all();
  const current = camera.stream?.getVideoTracks()[0].getSettings().deviceId;
  const options = all.map(({ deviceId, label }, i) => new Option(label || `Camera ${i + 1}`, deviceId));
  at("camera").replaceChildren(...options);
  at("camera").value = current ?? "";
  at("camera-field").hidden = all.length < 2;
}

/** Look at frames, one at a time, until this run is over. */
async function watch(run) {
  let last = performance.now();
  while (run === state.run) {
    const start = performance.now();
    const isMirrored = at("mirror").checked;
    const canvas = document.hidden ? null : camera.frame({ isMirrored, isWhole: state.network.hands });
    if (canvas === null) {
      await pause(0.1);
      continue;
    }
    try {
      const network = state.network;
      const found = await look(canvas, true);
      if (run !== state.run) return;
      if (network === state.network) seen(found, isMirrored);
      const now = performance.now();
      measure(now - last, now - start);
      last = now;
      show.notice();
    } catch (error) {
      if (run !== state.run) return;
      await trouble(error);
    }
    const left = PAUSE - (performance.now() - start);
    if (left > 0) await pause(left / 1000);
  }
}

async function trouble(error) {
  forget();
  show.held(0);
  if (!(error instanceof Trouble)) throw error;
  if (error.status === 401) at("key-dialog").showModal();
  if (error.status !== 429) {
    // too much to do makes it only slower; otherwise what was seen last is no longer what is seen
    show.nothing();
    show.notice(retried(error));
  }
  await pause(error.wait || 1);
}

function measure(gap, latency) {
  const blend = (old, now) => (old ? 0.8 * old + 0.2 * now : now);
  state.rate = blend(state.rate, 1000 / gap);
  state.latency = blend(state.latency, latency);
  at("rate").textContent = state.rate.toFixed(1);
  at("latency").textContent = state.latency.toFixed(0);
}

function seen({ pairs, hand, width, height }, isMirrored) {
  const now = performance.now() / 1000;
  const { threshold } = state;
  show.hand(at("hand"), hand, width, height, isMirrored);
  let best = null;
  if (hand === null) {
    average.forget();
    show.noHand();
  } else {
    const steady = ranked(average.of(pairs, now));
    show.answer(steady, threshold);
    if (steady[0][1] >= threshold) best = steady[0][0];
  }
  const sign = speller.see(best, now);
  show.held(speller.held(now));
  if (sign === null || sign.toLowerCase() === "nothing") return;
  line.set(written(line.text, sign));
  refresh();
  at("said").textContent = sign.toLowerCase() === "del" ? "Last letter taken away" : `Written: ${sign}`;
}

// -- the text

function refresh() {
  at("line").value = line.text;
  at("undo").disabled = !line.before.length;
  for (const id of ["copy", "clear"]) at(id).disabled = !line.text;
  at("speak").disabled = !line.text.trim() || !("speechSynthesis" in window);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(line.text);
    at("said").textContent = "Copied";
  } catch {
    at("line").select();
    at("said").textContent = "This browser does not let pages copy: the text is selected, press Ctrl+C.";
  }
}

function speak() {
  const words = new SpeechSynthesisUtterance(line.text);
  words.lang = document.documentElement.lang;
  words.addEventListener("start", () => (at("said").textContent = "Speaking"));
  words.addEventListener("end", () => (at("said").textContent = "Spoken"));
  words.addEventListener("error", () => (at("said").textContent = "This browser has no voice."));
  at("said").textContent = speechSynthesis.getVoices().length ? "Speaking" : "This browser has no voice yet.";
  speechSynthesis.cancel();
  speechSynthesis.speak(words);
}

// -- images

async function images(files) {
  for (const file of files) {
    const url = URL.createObjectURL(file);
    try {
      const { threshold } = state;
      const found = state.isBrowser ? await look(await drawn(file)) : await recognise(state.network, file);
      show.result(url, file.name, found, threshold);
    } catch (error) {
      show.result(url, file.name, null, 0, error.message);
      if (error.status === 401) return void at("key-dialog").showModal();
    }
  }
}

async function drawn(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Trouble("This browser cannot read the image.");
  }
  const scale = Math.min(1, LARGEST / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // below what is transparent, as in training
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// -- wiring

const on = (id, event, act) => at(id).addEventListener(event, act);

on("start", "click", toggle);
on("model", "change", choose);
on("camera", "change", async () => {
  stop();
  await toggle();
});
on("mirror", "change", forget);
on("hold", "input", () => {
  setHold(Number(at("hold").value));
  keep("hold", speller.seconds);
});
on("least", "input", () => {
  setThreshold(Number(at("least").value));
  keep(`least:${state.network.name}`, state.threshold);
});
on("own", "click", () => {
  setThreshold(null);
  keep(`least:${state.network.name}`, null);
  at("least").focus();
});
for (const choice of document.querySelectorAll("input[name=where]")) choice.addEventListener("change", where);
on("line", "input", () => {
  line.set(at("line").value);
  refresh();
});
on("undo", "click", () => {
  line.undo();
  refresh();
  at("said").textContent = "Undone";
});
on("clear", "click", () => {
  line.set("");
  refresh();
  at("said").textContent = "Cleared; Undo brings it back";
});
on("copy", "click", copy);
on("speak", "click", speak);
on("files", "change", async () => {
  await images([...at("files").files]);
  at("files").value = "";
});
on("key-form", "submit", (event) => {
  event.preventDefault();
  keepKey(at("key").value);
  at("key-dialog").close();
  begin();
});

let depth = 0; // of nested elements that a dragged file is above
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  if (state.network) images([...event.dataTransfer.files]);
});

setHold(kept("hold") ?? speller.seconds);
refresh();
begin();

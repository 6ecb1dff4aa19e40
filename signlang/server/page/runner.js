// Web Worker of browser.js: loads the networks, predicts RGBA pixels.

import { HandFinder, handImage, rgb } from "./hands.js";
import * as ort from "./vendor/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
// threads need a page that is isolated from others, which the service asks browsers for
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, Math.max(1, navigator.hardwareConcurrency >> 1)) : 1;
ort.env.logLevel = "error";

let network = null;
let finder = null; // of hands, where the network sees only those
let options = null; // of what it sees

/** A network as a function from an image to the numbers of its outputs. */
async function loaded(file) {
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return async ({ data, width, height }) => {
    const images = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const outputs = Object.entries(await session.run({ images }));
    return Object.fromEntries(outputs.map(([name, tensor]) => [name, tensor.data]));
  };
}

async function load({ file, hands }) {
  network = await loaded(file);
  if (!hands) return {};
  finder = new HandFinder(await loaded(hands.palm), await loaded(hands.landmarks));
  options = hands.options;
  return {};
}

async function answer({ pixels, width, height, isFilm }) {
  let image = rgb(new Uint8Array(pixels), width, height);
  let hand; // stays undefined where none is looked for
  if (finder) {
    hand = await (isFilm ? finder.follow(image) : finder.find(image));
    image = handImage(image, hand, options);
  }
  const { probabilities } = await network(image);
  return { probabilities: Array.from(probabilities), hand };
}

self.addEventListener("message", async ({ data }) => {
  try {
    self.postMessage({ number: data.number, ...(await (data.file ? load(data) : answer(data))) });
  } catch (error) {
    self.postMessage({ number: data.number, error: String(error?.message ?? error).slice(0, 200) });
  }
});

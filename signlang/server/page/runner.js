// Web Worker of browser.js: loads the network, predicts RGBA pixels.

import * as ort from "./vendor/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
// threads need a page that is isolated from others, which the service asks browsers for
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, Math.max(1, navigator.hardwareConcurrency >> 1)) : 1;
ort.env.logLevel = "error";

let session = null;

function rgb(pixels) {
  const given = new Uint8Array(pixels);
  const colours = new Uint8Array((given.length / 4) * 3);
  for (let from = 0, to = 0; from < given.length; from += 4) {
    colours[to++] = given[from];
    colours[to++] = given[from + 1];
    colours[to++] = given[from + 2];
  }
  return colours;
}

async function answer({ file, pixels, width, height }) {
  if (file) {
    session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return {};
  }
  const images = new ort.Tensor("uint8", rgb(pixels), [1, height, width, 3]);
  const { probabilities } = await session.run({ images });
  return { probabilities: Array.from(probabilities.data) };
}

self.addEventListener("message", async ({ data }) => {
  try {
    self.postMessage({ number: data.number, ...(await answer(data)) });
  } catch (error) {
    self.postMessage({ number: data.number, error: String(error?.message ?? error).slice(0, 200) });
  }
});

// In-browser inference: a Web Worker beside the page runs the network, so that the page
// stays responsive.

import { load, Trouble } from "./service.js";

export class Browser {
  constructor() {
    this.worker = null;
    this.chosen = null; // name of the network
    this.ready = null; // promise of its being loaded
    this.waiting = new Map();
    this.number = 0;
  }

  /** Load a network, unless it is loaded or being loaded. */
  async prepare(network) {
    if (network.hands) throw new Trouble("This network wants the hand found first, which the service does.");
    if (this.chosen !== network.name) {
      this.chosen = network.name;
      this.ready = this.#begin(network);
    }
    try {
      await this.ready;
    } catch (error) {
      if (this.chosen === network.name) this.chosen = null; // the next call tries again
      throw error;
    }
  }

  async #begin(network) {
    const file = await load(network);
    if (this.chosen !== network.name) throw new Trouble("Another network was chosen.");
    this.worker?.terminate();
    this.#fail("Another network was chosen.");
    this.worker = new Worker(new URL("./runner.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.#hear(data));
    this.worker.addEventListener("error", () => this.#fail("The network cannot run in this browser."));
    await this.#send({ file }, [file]);
  }

  /** Ask about the pixels of a canvas; gives [sign, probability] pairs, the most probable first. */
  async recognise(network, canvas) {
    await this.prepare(network);
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const { probabilities } = await this.#send({ pixels: data.buffer, width, height }, [data.buffer]);
    return network.classes.map((sign, i) => [sign, probabilities[i]]).sort((a, b) => b[1] - a[1]);
  }

  #send(message, moved) {
    const number = ++this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ ...message, number }, moved);
    });
  }

  #hear(data) {
    const { resolve, reject } = this.waiting.get(data.number) ?? {};
    this.waiting.delete(data.number);
    if (data.error) reject?.(new Trouble(`The network cannot run in this browser: ${data.error}`));
    else resolve?.(data);
  }

  #fail(sentence) {
    for (const { reject } of this.waiting.values()) reject(new Trouble(sentence));
    this.waiting.clear();
  }
}

// In-browser inference: a Web Worker beside the page runs the networks, so that the page
// stays responsive.

import { load, ranked, Trouble } from "./service.js";

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
    const { url, hands } = network.browser;
    const [file, palm, landmarks] = await Promise.all([url, ...(hands ? [hands.palm, hands.landmarks] : [])].map(load));
    if (this.chosen !== network.name) throw new Trouble("Another network was chosen.");
    this.worker?.terminate();
    this.#fail("Another network was chosen.");
    this.worker = new Worker(new URL("./runner.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.#hear(data));
    this.worker.addEventListener("error", () => this.#fail("The network cannot run in this browser."));
    await this.#send({ file, hands: hands && { palm, landmarks, options: hands.options } }, [file]);
  }

  /** Ask about the pixels of a canvas, perhaps the next frame of a film; gives what the service gives. */
  async recognise(network, canvas, isFilm) {
    await this.prepare(network);
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const { probabilities, hand } = await this.#send({ pixels: data.buffer, width, height, isFilm }, [data.buffer]);
    return { pairs: ranked(network.classes.map((sign, i) => [sign, probabilities[i]])), hand };
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

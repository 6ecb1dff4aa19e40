// Spelling: steadies probabilities, assembles held signs into a line of text; independent of the page.

const FRAMES = 3; // at the least, however long they take
const SLIPS = 2; // odd frames in a row that count as another sign

const SPAN = 0.3; // seconds of frames that are averaged

/** The mean of the probabilities of the last frames: a slow computer averages fewer. */
export class Average {
  constructor() {
    this.forget();
  }

  forget() {
    this.frames = [];
  }

  /** Add [sign, probability] pairs at a time in seconds; gives those of the mean. */
  of(pairs, now) {
    this.frames = this.frames.filter(({ time }) => now - time < SPAN);
    this.frames.push({ time: now, shares: new Map(pairs) });
    const mean = (sign) => this.frames.reduce((sum, { shares }) => sum + shares.get(sign), 0) / this.frames.length;
    return pairs.map(([sign]) => [sign, mean(sign)]);
  }
}

/** Writes a sign once it has been held. */
export class Speller {
  constructor(seconds = 0.8) {
    this.seconds = seconds;
    this.forget();
  }

  /** Start again, as if no sign had been seen. */
  forget() {
    this.sign = null; // being held
    this.since = 0;
    this.frames = 0;
    this.slips = 0;
    this.isWritten = false;
  }

  /**
   * Look at the sign of a frame, null for none or not sure, at a time in seconds.
   * Returns the sign if it is to be written now, otherwise null.
   */
  see(sign, now) {
    if (sign === this.sign) {
      this.slips = 0;
      this.frames += 1;
    } else if (++this.slips >= SLIPS || this.sign === null) {
      Object.assign(this, { sign, since: now, frames: 1, slips: 0, isWritten: false });
    }
    if (this.sign === null || this.isWritten || this.held(now) < 1) return null;
    this.isWritten = true;
    return this.sign;
  }

  /** How much of the time a sign has been held, 0 to 1. */
  held(now) {
    if (this.sign === null) return 0;
    if (this.isWritten) return 1;
    const time = (now - this.since) / this.seconds;
    return Math.max(0, Math.min(1, time, this.frames / FRAMES));
  }
}

/** What a sign does to a text. */
export function written(text, sign) {
  const name = sign.toLowerCase();
  if (name === "nothing") return text;
  if (name === "space") return text + " ";
  if (name === "del" || name === "delete") return [...text].slice(0, -1).join("");
  return [...sign].length === 1 ? text + sign : `${text}${text && !text.endsWith(" ") ? " " : ""}${sign} `;
}

/** A text that remembers what it was. */
export class Line {
  constructor() {
    this.text = "";
    this.before = [];
  }

  /** Change the text; the old one can be had back. */
  set(text) {
    if (text === this.text) return;
    this.before.push(this.text);
    if (this.before.length > 1000) this.before.shift();
    this.text = text;
  }

  /** Have the text back as it was before the last change. */
  undo() {
    if (this.before.length) this.text = this.before.pop();
  }
}

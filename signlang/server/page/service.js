// HTTP client of the inference service.

/** What went wrong, in a sentence; `wait` is in seconds where trying again makes sense. */
export class Trouble extends Error {
  constructor(message, { status = 0, wait = 0 } = {}) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

const KEY = "signlang-key";

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(options.patience ?? 30000) });
  } catch {
    throw new Trouble("The service does not answer.", { wait: 2 });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const wait = Number(answer.headers.get("Retry-After")) || (answer.status >= 500 ? 2 : 0);
  throw new Trouble(said.error ?? `The service answers with ${answer.status}.`, { status: answer.status, wait });
}

/** Keep the key of the service until the tab is closed. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The networks among which to choose, and the limits. */
export async function networks() {
  return (await ask("/v1/models", { patience: 10000 })).json();
}

/** The drawings of the signs of a network, by sign; none where it has none. */
export async function drawings(network) {
  return network.signs ? (await ask(network.signs)).json() : {};
}

/** A file of a network, to run it here. */
export async function load(url) {
  return (await ask(url, { patience: 120000 })).arrayBuffer();
}

/** [sign, probability] pairs, the most probable first. */
export function ranked(pairs) {
  return pairs.sort((a, b) => b[1] - a[1]);
}

/**
 * Ask about one image; gives ranked pairs and the hand { box, points } in pixels of the image, null
 * for none, undefined where none is looked for.
 */
export async function recognise(network, blob) {
  const path = `/v1/predict?model=${encodeURIComponent(network.name)}`;
  const answer = await ask(path, { method: "POST", body: blob, headers: { "Content-Type": blob.type || "application/octet-stream" } });
  const { probabilities, hand, landmarks } = (await answer.json()).predictions[0];
  return { pairs: ranked(Object.entries(probabilities)), hand: hand === undefined ? undefined : (landmarks ?? null) };
}

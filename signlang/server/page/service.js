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

/** The file of a network, to run it here. */
export async function load(network) {
  return (await ask(network.browser.url, { patience: 120000 })).arrayBuffer();
}

/** Ask about one image; gives [sign, probability] pairs, the most probable first. */
export async function recognise(network, blob) {
  const path = `/v1/predict?model=${encodeURIComponent(network.name)}`;
  const answer = await ask(path, { method: "POST", body: blob, headers: { "Content-Type": blob.type || "application/octet-stream" } });
  return Object.entries((await answer.json()).predictions[0].probabilities).sort((a, b) => b[1] - a[1]);
}

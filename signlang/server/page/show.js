// Rendering of predictions and messages.

const GUESSES = 4;
export const at = (id) => document.getElementById(id);

/** A sign as people read it. */
const NAMES = { space: "␣", del: "⌫", nothing: "∅" };
export function shown(sign) {
  return NAMES[sign.toLowerCase()] ?? sign;
}

export function percent(part) {
  return `${Math.floor(part * 100)} %`;
}

/** Show a sentence that nobody should miss, or take it away. */
export function notice(sentence = "") {
  const place = at("notice");
  if (place.textContent !== sentence) place.textContent = sentence;
  place.hidden = !sentence;
}

export function nothing() {
  at("letter").textContent = "–";
  at("letter").className = "";
  at("dial").className = "dial";
  at("verdict").textContent = "Nothing seen yet";
  at("guesses").replaceChildren();
  at("rate").textContent = at("latency").textContent = "–";
  held(0);
}

/** Show [sign, probability] pairs, the most probable first. */
export function answer(pairs, threshold) {
  const [sign, confidence] = pairs[0];
  const isSure = confidence >= threshold;
  const letter = at("letter");
  letter.textContent = isSure ? shown(sign) : "not sure";
  letter.className = [...letter.textContent].length > 2 ? "word" : "";
  letter.setAttribute("aria-label", isSure ? sign : "not sure");
  at("dial").className = isSure ? "dial" : "dial unsure";
  at("verdict").textContent = isSure ? `${sign}, ${percent(confidence)}` : `Not sure: ${sign}, ${percent(confidence)}?`;
  bars(pairs.slice(0, GUESSES));
}

function bars(pairs) {
  const list = at("guesses");
  while (list.children.length < pairs.length) list.append(bar());
  while (list.children.length > pairs.length) list.lastChild.remove();
  pairs.forEach(([sign, part], i) => {
    const [name, meter, text] = list.children[i].children;
    name.textContent = sign;
    meter.value = part;
    meter.setAttribute("aria-label", `Probability of ${sign}`);
    text.textContent = percent(part);
  });
}

function bar() {
  const item = document.createElement("li");
  const name = document.createElement("b");
  const meter = document.createElement("meter");
  const text = document.createElement("span");
  text.className = "percent";
  item.append(name, meter, text);
  return item;
}

/** Show how much of the time a sign has been held, 0 to 1. */
export function held(part) {
  at("dial").style.setProperty("--held", part.toFixed(3));
}

/** Add an answer about an image: pairs and a threshold, or an error's sentence. */
export function result(url, name, pairs, threshold, error = "") {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.src = url;
  image.alt = name;
  const text = document.createElement("p");
  if (error) {
    text.className = "bad";
    text.textContent = `${name}: ${error}`;
    image.addEventListener("error", () => image.remove());
  } else {
    const [sign, confidence] = pairs[0];
    const isSure = confidence >= threshold;
    text.className = isSure ? "" : "unsure";
    const best = document.createElement("b");
    best.textContent = isSure ? sign : "not sure";
    text.append(best, isSure ? ` ${percent(confidence)}` : ` (${sign}? ${percent(confidence)})`);
  }
  item.append(image, text);
  at("results").prepend(item);
}

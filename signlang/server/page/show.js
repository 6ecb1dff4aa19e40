// Rendering of predictions and messages.

const GUESSES = 4;
const NO_HAND = "no hand";
// of the 21 points: each finger from the wrist or the palm, and across the palm
const BONES = [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [0, 17, 18, 19, 20], [5, 9, 13, 17]];
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
  hand(at("hand"), null);
  at("rate").textContent = at("latency").textContent = "–";
  held(0);
}

/** Show [sign, probability] pairs, the most probable first. */
export function answer(pairs, threshold) {
  const [sign, confidence] = pairs[0];
  const isSure = confidence >= threshold;
  dial(isSure ? sign : "not sure", isSure);
  at("verdict").textContent = isSure ? `${sign}, ${percent(confidence)}` : `Not sure: ${sign}, ${percent(confidence)}?`;
  bars(pairs.slice(0, GUESSES));
}

/** Show that there is no hand in the image. */
export function noHand() {
  dial(NO_HAND, false);
  at("verdict").textContent = "No hand is found";
  bars([]);
}

function dial(word, isSure) {
  const letter = at("letter");
  letter.textContent = isSure ? shown(word) : word;
  letter.className = [...letter.textContent].length > 2 ? "word" : "";
  letter.setAttribute("aria-label", word);
  at("dial").className = isSure ? "dial" : "dial unsure";
}

/**
 * Draw the box and the points of a hand { box, points } on an SVG element over an image of that
 * size, mirrored where the hand was found in the mirrored image; nothing without a hand.
 */
export function hand(svg, found, width = 1, height = 1, isMirrored = false) {
  svg.toggleAttribute("hidden", !found);
  if (!found) return;
  const { box, points } = found;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [group] = svg.children;
  group.setAttribute("transform", isMirrored ? `translate(${width}) scale(-1 1)` : "");
  const [frame, bones, joints] = group.children;
  const [left, top, right, bottom] = box;
  for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) frame.setAttribute(name, value);
  strokes(bones, joints, points);
}

function strokes(bones, joints, points) {
  bones.setAttribute("d", BONES.map((bone) => `M${bone.map((i) => points[i].slice(0, 2)).join("L")}`).join(""));
  joints.setAttribute("d", points.map(([x, y]) => `M${x},${y}h0`).join(""));
}

/** Show the drawings of signs: the points of a right hand of each, in palms from the wrist. */
export function drawings(signs) {
  at("signs").hidden = !Object.keys(signs).length;
  const figures = Object.entries(signs).map(([sign, points]) => {
    const drawing = at("hand").cloneNode(true);
    for (const name of ["id", "hidden"]) drawing.removeAttribute(name);
    const [frame, bones, joints] = drawing.firstElementChild.children;
    frame.remove();
    strokes(bones, joints, points.map(([x, y]) => [-x, y])); // as in a mirror
    drawing.setAttribute("viewBox", view(points));
    const item = document.createElement("li");
    const name = document.createElement("b");
    name.textContent = sign;
    item.append(drawing, name);
    return item;
  });
  at("drawings").replaceChildren(...figures);
}

/** The square around points of a mirrored hand, of one scale for all as far as they fit into it. */
function view(points) {
  const [xs, ys] = [points.map(([x]) => -x), points.map(([, y]) => y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const side = Math.max(3, right - left + 0.4, bottom - top + 0.4);
  return [(left + right - side) / 2, (top + bottom - side) / 2, side, side].join(" ");
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

/** Add an answer about an image, and a threshold, or an error's sentence. */
export function result(url, name, found, threshold, error = "") {
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
    const [sign, confidence] = found.pairs[0];
    const isSure = confidence >= threshold && found.hand !== null;
    text.className = isSure ? "" : "unsure";
    const best = document.createElement("b");
    best.textContent = isSure ? sign : "not sure";
    text.append(best, isSure ? ` ${percent(confidence)}` : ` (${sign}? ${percent(confidence)})`);
    if (found.hand === null) text.textContent = NO_HAND;
  }
  const frame = document.createElement("div");
  frame.append(image);
  if (found?.hand) {
    const drawing = at("hand").cloneNode(true);
    drawing.removeAttribute("id");
    drawing.setAttribute("preserveAspectRatio", "xMidYMid slice"); // as the image, which fills its frame
    frame.append(drawing);
    const { width, height } = found;
    image.addEventListener("load", () => hand(drawing, found.hand, width ?? image.naturalWidth, height ?? image.naturalHeight));
  }
  item.append(frame, text);
  at("results").prepend(item);
}

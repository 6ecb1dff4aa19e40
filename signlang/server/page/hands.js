// Finding a hand in pixels, and what the network sees of it: signlang/hands/finder.py and hand_input.py
// in JavaScript, with the same steps, constants and rounding; images are { data (RGB), width, height }.

export const POINTS = 21; // wrist, then four of each finger from the palm to its tip, the thumb first
export const WRIST = 0;
export const KNUCKLES = [5, 9, 13, 17];
export const SIDE = 192; // of the palm detector's images, in pixels
export const CROP = 224; // of the landmark network's images, in pixels
export const DETECTION = 0.2; // least score of a palm
export const PRESENCE = 0.5; // least score of a hand in a crop
export const OVERLAP = 0.3; // from which two boxes are one palm
export const SCALE = 2.6; // of the crop, in sides of the palm's box
export const SHIFT = 0.5; // of the crop, towards the fingers, in sides of the palm's box
export const CANDIDATES = 2; // palms of a view that are tried
export const VIEWS = [0.25, 1, 0]; // borders around the image, as shares of its longer side
export const GREY = 128;
export const BLANK_SIDE = 8; // pixels of an image without a hand
export const GRID = 8; // side of the image that holds the points
export const LIMIT = 4; // of a coordinate, in palms
export const STEPS = 65535; // of 16 bits

// the region of the next frame, as MediaPipe's hand_landmark_landmarks_to_roi has it: fingertips do
// not count, as they move the most
const STEADY = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18];
const NEXT_SCALE = 2; // in sides of the box of these points
const NEXT_SHIFT = 0.1; // towards the fingers

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Round to the nearest integer, halves to the even one, as Python and numpy do. */
function rounded(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

const blank = (width, height) => ({ data: new Uint8Array(3 * width * height), width, height });

/** The colours of RGBA pixels. */
export function rgb(pixels, width, height) {
  const image = blank(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    image.data[to++] = pixels[from];
    image.data[to++] = pixels[from + 1];
    image.data[to++] = pixels[from + 2];
  }
  return image;
}

/** The image of these columns and rows. */
function picked(image, columns, rows) {
  const out = blank(columns.length, rows.length);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      const from = 3 * (row * image.width + column);
      out.data[to++] = image.data[from];
      out.data[to++] = image.data[from + 1];
      out.data[to++] = image.data[from + 2];
    }
  }
  return out;
}

const BITS = 22; // of Pillow's weights

/** Pillow's weights of its bilinear filter: for each place of the result the first one, and its weights. */
function weights(length, size) {
  const scale = length / size;
  const support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), length);
    const own = [];
    for (let i = first; i < end; i++) own.push(Math.max(1 - Math.abs((i - centre + 0.5) / support), 0));
    const sum = own.reduce((a, b) => a + b, 0);
    return { first, own: own.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** BITS)) };
  });
}

/** Resize as Pillow does, along the rows and then along the columns. */
export function resized(image, width, height) {
  const { data, width: before } = image;
  const wide = blank(width, image.height);
  weights(before, width).forEach(({ first, own }, x) => {
    for (let y = 0; y < image.height; y++) {
      for (let colour = 0; colour < 3; colour++) {
        let sum = 1 << (BITS - 1);
        let from = 3 * (y * before + first) + colour;
        for (let i = 0; i < own.length; i++, from += 3) sum += own[i] * data[from];
        wide.data[3 * (y * width + x) + colour] = sum >> BITS;
      }
    }
  });
  const out = blank(width, height);
  const stride = 3 * width;
  weights(image.height, height).forEach(({ first, own }, y) => {
    for (let place = 0; place < stride; place++) {
      let sum = 1 << (BITS - 1);
      let from = first * stride + place;
      for (let i = 0; i < own.length; i++, from += stride) sum += own[i] * wide.data[from];
      out.data[y * stride + place] = sum >> BITS;
    }
  });
  return out;
}

/** Average blocks of factor x factor pixels, as Pillow does. */
function reduced(image, factor) {
  const out = blank(Math.ceil(image.width / factor), Math.ceil(image.height / factor));
  let to = 0;
  for (let top = 0; top < image.height; top += factor) {
    for (let left = 0; left < image.width; left += factor) {
      const [bottom, right] = [Math.min(top + factor, image.height), Math.min(left + factor, image.width)];
      const count = (bottom - top) * (right - left);
      const share = Math.floor(2 ** 24 / count);
      for (let colour = 0; colour < 3; colour++) {
        let sum = count >> 1;
        for (let y = top; y < bottom; y++) {
          for (let x = left; x < right; x++) sum += image.data[3 * (y * image.width + x) + colour];
        }
        out.data[to++] = Math.floor((sum * share) / 2 ** 24);
      }
    }
  }
  return out;
}

/** Cut a region { x, y, side, angle } out of an image as side x side; beyond the image its edge goes on. */
export function cut(image, region, side) {
  const [cosine, sine] = [Math.cos(region.angle), Math.sin(region.angle)];
  const half = (region.side / 2) * (Math.abs(cosine) + Math.abs(sine)) + 2;
  const [left, top] = [Math.floor(region.x - half), Math.floor(region.y - half)];
  const places = Array.from({ length: Math.ceil(2 * half) + 1 }, (_, i) => i);
  let patch = picked(
    image,
    places.map((i) => clamp(left + i, 0, image.width - 1)),
    places.map((i) => clamp(top + i, 0, image.height - 1)),
  );
  const factor = Math.max(Math.trunc(region.side / side), 1);
  if (factor > 1) patch = reduced(patch, factor);
  const step = region.side / side / factor;
  const [across, down] = [cosine * step, sine * step];
  const startX = (region.x - left) / factor - ((across - down) * side) / 2;
  const startY = (region.y - top) / factor - ((down + across) * side) / 2;
  const out = blank(side, side);
  const { data, width, height } = patch;
  for (let y = 0, to = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const atX = across * (x + 0.5) - down * (y + 0.5) + startX - 0.5;
      const atY = down * (x + 0.5) + across * (y + 0.5) + startY - 0.5;
      const column = Math.floor(atX);
      const row = Math.floor(atY);
      const from = 3 * (clamp(row, 0, height - 1) * width + clamp(column, 0, width - 1));
      const right = column >= 0 && column < width - 1 ? 3 : 0;
      const below = row >= 0 && row < height - 1 ? 3 * width : 0;
      for (let colour = from; colour < from + 3; colour++) {
        const upper = data[colour] + (data[colour + right] - data[colour]) * (atX - column);
        const lower = data[colour + below] + (data[colour + below + right] - data[colour + below]) * (atX - column);
        out.data[to++] = upper + (lower - upper) * (atY - row);
      }
    }
  }
  return out;
}

/** The detector's square image; pixels of the image are mapped into it by scale and offset. */
function letterbox(image, border) {
  const longer = Math.max(image.width, image.height);
  const ideal = SIDE / (longer * (1 + 2 * border));
  const size = [image.width, image.height].map((length) => Math.max(rounded(length * ideal), 1));
  const small = resized(image, ...size);
  const pad = Math.min(rounded(longer * ideal * border), (SIDE - Math.max(...size)) >> 1);
  const start = size.map((length) => (SIDE - length - 2 * pad) >> 1);
  const canvas = blank(SIDE, SIDE);
  const spans = size.map((length, axis) =>
    Array.from({ length: length + 2 * pad }, (_, i) => clamp(i - pad, 0, length - 1)),
  );
  const framed = picked(small, ...spans);
  for (let y = 0; y < framed.height; y++) {
    const row = framed.data.subarray(3 * y * framed.width, 3 * (y + 1) * framed.width);
    canvas.data.set(row, 3 * ((y + start[1]) * SIDE + start[0]));
  }
  return {
    canvas,
    scale: [size[0] / image.width, size[1] / image.height],
    offset: start.map((length) => length + pad),
  };
}

/** Centres of the detector's anchors, 0 to 1: two at each of 24 x 24 places, six at each of 12 x 12. */
function anchors() {
  const centres = [];
  for (const [places, each] of [[24, 2], [12, 6]]) {
    for (let y = 0; y < places; y++) {
      for (let x = 0; x < places; x++) {
        for (let i = 0; i < each; i++) centres.push([(x + 0.5) / places, (y + 0.5) / places]);
      }
    }
  }
  return centres;
}

const ANCHORS = anchors();

/** Intersection over union of two boxes: left, top, right, bottom. */
function overlap(one, other) {
  const area = (width, height) => Math.max(width, 0) * Math.max(height, 0);
  const shared = area(
    Math.min(one[2], other[2]) - Math.max(one[0], other[0]),
    Math.min(one[3], other[3]) - Math.max(one[1], other[1]),
  );
  const own = ([left, top, right, bottom]) => area(right - left, bottom - top);
  return shared / Math.max(own(one) + own(other) - shared, 1e-12);
}

/** Merge palms { values, score } that overlap to their mean, weighted by score; the best comes first. */
function merged(palms) {
  const rest = palms.toSorted((a, b) => b.score - a.score);
  const out = [];
  while (rest.length) {
    const best = rest[0];
    const group = rest.filter((palm) => palm === best || overlap(best.values, palm.values) > OVERLAP);
    const sum = group.reduce((total, { score }) => total + score, 0);
    const values = best.values.map((_, i) => group.reduce((total, palm) => total + (palm.score / sum) * palm.values[i], 0));
    out.push({ values, score: best.score });
    rest.splice(0, rest.length, ...rest.filter((palm) => !group.includes(palm)));
  }
  return out;
}

/** Left, top, right and bottom of the detector's box, then x and y of its seven points, 0 to 1. */
function decoded(boxes, anchor) {
  const raw = Array.from(boxes.subarray(18 * anchor, 18 * (anchor + 1)), (value) => value / SIDE);
  const half = [raw[2] / 2, raw[3] / 2];
  const values = raw.map((value, i) => value + ANCHORS[anchor][i % 2]);
  const [x, y] = values;
  values.splice(0, 4, x - half[0], y - half[1], x + half[0], y + half[1]);
  return values;
}

/** The angle by which an image is turned so that the line from (x0, y0) to (x1, y1) points upwards. */
function turnUp(x0, y0, x1, y1) {
  const angle = Math.PI / 2 - Math.atan2(y0 - y1, x1 - x0);
  return angle - 2 * Math.PI * Math.floor((angle + Math.PI) / (2 * Math.PI));
}

/** The turned square around the whole hand of a palm { box, points }. */
function handRegion({ box: [left, top, right, bottom], points }) {
  const angle = turnUp(...points[0], ...points[2]); // wrist, beginning of the middle finger
  const height = bottom - top;
  return {
    x: (left + right) / 2 + height * SHIFT * Math.sin(angle),
    y: (top + bottom) / 2 - height * SHIFT * Math.cos(angle),
    side: SCALE * Math.max(right - left, height),
    angle,
  };
}

const bounds = (points) => [
  Math.min(...points.map(([x]) => x)),
  Math.min(...points.map(([, y]) => y)),
  Math.max(...points.map(([x]) => x)),
  Math.max(...points.map(([, y]) => y)),
];

/** Where a hand is looked for in the next frame. */
function nextRegion({ points }) {
  const [index, middle, ring] = [points[5], points[9], points[13]];
  const towards = [0, 1].map((axis) => ((index[axis] + ring[axis]) / 2 + middle[axis]) / 2);
  const angle = turnUp(points[WRIST][0], points[WRIST][1], ...towards);
  const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
  const turned = STEADY.map((i) => [points[i][0] * cosine + points[i][1] * sine, points[i][1] * cosine - points[i][0] * sine]);
  const [left, top, right, bottom] = bounds(turned);
  const [x, y] = [(left + right) / 2, (top + bottom) / 2 - NEXT_SHIFT * (bottom - top)];
  return {
    x: x * cosine - y * sine,
    y: x * sine + y * cosine,
    side: NEXT_SCALE * Math.max(right - left, bottom - top),
    angle,
  };
}

/** Finds a hand { points, box, right, score } in an image, by two networks: functions of a square image. */
export class HandFinder {
  constructor(palm, landmarks) {
    this.palm = palm; // gives { boxes, scores }
    this.landmarks = landmarks; // gives { points, presence, handedness }
    this.last = null; // hand of the film
    this.turn = 0; // of the views
  }

  /** The hand of a single image, or null. */
  async find(image, views = VIEWS) {
    for (const border of views) {
      for (const palm of (await this.#palms(image, border)).slice(0, CANDIDATES)) {
        const hand = await this.#hand(image, handRegion(palm));
        if (hand.score >= PRESENCE) return hand;
      }
    }
    return null;
  }

  /**
   * The hand of the next frame of a film, or null. It is looked for where it was; only where it is
   * lost the whole frame is searched, in one view a frame.
   */
  async follow(image) {
    if (this.last) {
      const hand = await this.#hand(image, nextRegion(this.last));
      this.last = hand.score >= PRESENCE ? hand : null;
      if (this.last) return hand;
      this.turn = 0;
    }
    this.last = await this.find(image, [VIEWS[this.turn++ % VIEWS.length]]);
    return this.last;
  }

  async #palms(image, border) {
    const { canvas, scale, offset } = letterbox(image, border);
    const { boxes, scores } = await this.palm(canvas);
    const palms = [];
    scores.forEach((raw, anchor) => {
      const score = 1 / (1 + Math.exp(-clamp(raw, -100, 100)));
      if (score >= DETECTION) palms.push({ values: decoded(boxes, anchor), score });
    });
    return merged(palms).map(({ values }) => {
      const pixels = values.map((value, i) => (value * SIDE - offset[i % 2]) / scale[i % 2]);
      return { box: pixels.slice(0, 4), points: Array.from({ length: 7 }, (_, i) => pixels.slice(4 + 2 * i, 6 + 2 * i)) };
    });
  }

  async #hand(image, region) {
    const { points, presence, handedness } = await this.landmarks(cut(image, region, CROP));
    const [cosine, sine] = [Math.cos(region.angle), Math.sin(region.angle)];
    const scale = region.side / CROP;
    const own = Array.from({ length: POINTS }, (_, i) => {
      const [x, y] = [points[3 * i] * scale - region.side / 2, points[3 * i + 1] * scale - region.side / 2];
      return [cosine * x - sine * y + region.x, sine * x + cosine * y + region.y, points[3 * i + 2] * scale].map(Math.fround);
    });
    return { points: own, box: bounds(own), right: handedness[0], score: presence[0] };
  }
}

// -- what the network sees, by the options of its bundle

/** (21, 3) points with the wrist as origin and the palm as unit; left hands mirrored if asked. */
function normalized({ points, right }, mirror) {
  const side = mirror && right < 0.5 ? -1 : 1;
  const own = points.map(([x, y, z]) => [side * (x - points[WRIST][0]), y - points[WRIST][1], z - points[WRIST][2]]);
  const squares = KNUCKLES.map((i) => own[i].reduce((sum, value) => sum + value ** 2, 0));
  const palm = Math.max(Math.sqrt(squares.reduce((a, b) => a + b) / KNUCKLES.length), 1e-6);
  return own.map((point) => point.map((value) => value / palm));
}

/** The points as pixels: two bytes a number, red before green; the last one says that there is a hand. */
function pointPixels(hand, mirror) {
  const pixels = new Uint8Array(3 * GRID * GRID);
  if (!hand) return pixels;
  const numbers = normalized(hand, mirror).flat().map((value) => rounded(((clamp(value, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)) * STEPS));
  [...numbers, STEPS].forEach((number, i) => pixels.set([number >> 8, number & 255], 3 * i));
  return pixels;
}

/** Indices around a place of an axis, mirrored at its ends as often as needed. */
function span(middle, side, length) {
  const start = Math.floor(middle - side / 2 + 0.5);
  const turn = Math.max(length - 1, 1);
  return Array.from({ length: side }, (_, i) => {
    const place = (((start + i) % (2 * turn)) + 2 * turn) % (2 * turn);
    return Math.min(place, 2 * turn - place, length - 1);
  });
}

function handCrop(image, hand, { margin, mirror, not_found }) {
  if (!hand && not_found === "full") return image;
  if (!hand) {
    const grey = blank(BLANK_SIDE, BLANK_SIDE);
    grey.data.fill(GREY);
    return grey;
  }
  const { box: [left, top, right, bottom], right: likely } = hand;
  const side = Math.max(rounded(Math.max(right - left, bottom - top) * (1 + 2 * margin)), 2);
  const columns = span((left + right) / 2, side, image.width);
  if (mirror && likely < 0.5) columns.reverse();
  return picked(image, columns, span((top + bottom) / 2, side, image.height));
}

/** What the network sees of an image with a hand, or with none (null). */
export function handImage(image, hand, options) {
  if (options.input === "HandPoints") return { data: pointPixels(hand, options.mirror), width: GRID, height: GRID };
  const crop = handCrop(image, hand, options);
  if (options.input !== "HandBoth") return crop;
  const { image_size: side, mirror } = options;
  const data = resized(crop, side, side).data.slice();
  const last = 3 * side * (side - 1); // the row of the points
  data.fill(0, last);
  data.set(pointPixels(hand, mirror), last);
  return { data, width: side, height: side };
}

// What comes before the networks and after them; the same numbers as bthub.inference.backends.stages.

import { resize, roundHalfEven } from "./resize.js";

/** Where a picture lies in its square letterbox. */
export function letterboxBox(width, height, size) {
  const longest = Math.max(width, height);
  const inner = (side) => Math.max(1, roundHalfEven((side * size) / longest));
  const [w, h] = [inner(width), inner(height)];
  return { left: Math.floor((size - w) / 2), top: Math.floor((size - h) / 2), width: w, height: h };
}

function onBlack(image, width, height, size, filter) {
  const { data } = resize(image, width, height, filter);
  const square = new Float32Array(3 * size * size);
  const left = Math.floor((size - width) / 2);
  const top = Math.floor((size - height) / 2);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        square[(c * size + top + y) * size + left + x] = data[(y * width + x) * 3 + c] / 255;
      }
    }
  }
  return square;
}

export function detectorPixels(image, size) {
  const ratio = Math.max(image.width / size, image.height / size);
  return onBlack(image, roundHalfEven(image.width / ratio), roundHalfEven(image.height / ratio), size, "bilinear");
}

export function localizerPixels(image, size) {
  const box = letterboxBox(image.width, image.height, size);
  return onBlack(image, box.width, box.height, size, "bilinear");
}

export function checkPixels(image, size) {
  const scale = size / Math.max(image.width, image.height);
  const side = (length) => Math.max(1, roundHalfEven(length * scale));
  return onBlack(image, side(image.width), side(image.height), size, "box");
}

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

/** A network's probability under a temperature on top of what is folded into its weights. */
export function calibrate(p, temperature) {
  if (temperature === 1 || p === 0 || p === 1) return p;
  return 1 / (1 + Math.exp(-(Math.log(p) - Math.log1p(-p)) / temperature));
}

const COLORFUL = 0.04;
// See bthub.imaging.kinds.
const CONTRAST = 3 * 64;
const FLAT_LEVELS = 8;
const BLACK_AND_WHITE = 0.8;

/** Whether a picture has colors, as three sequences in one have; toned and JPEG-gray ones haven't. */
export function hasColor(image) {
  const scale = Math.min(1, 128 / Math.max(image.width, image.height));
  const side = (length) => Math.max(1, roundHalfEven(length * scale));
  const { data } = resize(image, side(image.width), side(image.height), "bilinear");
  let most = 1;
  for (const value of data) most = Math.max(most, value);
  let sum = 0;
  let lit = 0;
  for (let i = 0; i < data.length; i += 3) {
    const bright = Math.max(data[i], data[i + 1], data[i + 2]);
    if (bright <= 0.1 * most) continue;
    sum += bright - Math.min(data[i], data[i + 1], data[i + 2]);
    lit++;
  }
  return lit > 0 && sum / lit > COLORFUL * most;
}

/** Whether a picture is a mask, a map of labels or a drawing: a few flat levels, where a scan has many. */
export function isDrawing({ data }) {
  const counts = new Uint32Array(3 * 255 + 1);
  for (let i = 0; i < data.length; i += 3) counts[data[i] + data[i + 1] + data[i + 2]]++;
  const levels = [...counts.keys()].filter((level) => counts[level]);
  const [low, high] = [levels[0], levels[levels.length - 1]];
  if (high - low < CONTRAST) return false;
  if (levels.length <= FLAT_LEVELS) return true;
  const near = Math.floor((high - low) / 16);
  const sum = (part) => part.reduce((a, b) => a + b, 0);
  const dark = sum(counts.slice(0, low + near + 1));
  const light = sum(counts.slice(high - near));
  const size = data.length / 3;
  return dark >= BLACK_AND_WHITE * (size - light) && light >= BLACK_AND_WHITE * (size - dark);
}

/**
 * Logits (size × size) to a mask of 0 and 1 at the picture's own size: where the probability exceeds the threshold, and
 * nothing where that is too small.
 */
export function maskOf(logits, size, image, { threshold, min_area_share: minAreaShare }) {
  const box = letterboxBox(image.width, image.height, size);
  const probability = new Float32Array(box.width * box.height);
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      probability[y * box.width + x] = 1 / (1 + Math.exp(-logits[(box.top + y) * size + box.left + x]));
    }
  }
  const down = neighbors(box.height, image.height);
  const along = neighbors(box.width, image.width);
  const mask = new Uint8Array(image.width * image.height);
  let area = 0;
  for (let y = 0; y < image.height; y++) {
    const [upper, lower, weight] = down[y];
    for (let x = 0; x < image.width; x++) {
      const [left, right, part] = along[x];
      const at = (row, column) => probability[row * box.width + column];
      const first = (1 - weight) * at(upper, left) + weight * at(lower, left);
      const second = (1 - weight) * at(upper, right) + weight * at(lower, right);
      if ((1 - part) * first + part * second > threshold) {
        mask[y * image.width + x] = 1;
        area++;
      }
    }
  }
  return area >= minAreaShare * mask.length ? { mask, area } : { mask: new Uint8Array(mask.length), area: 0 };
}

function neighbors(length, wanted) {
  return Array.from({ length: wanted }, (_, place) => {
    const position = Math.max(0, (place + 0.5) * (length / wanted) - 0.5);
    const first = Math.min(Math.floor(position), length - 1);
    return [first, Math.min(first + 1, length - 1), position - first];
  });
}

/** The box around a mask: [x0, y0, x1, y1], the last two exclusive; null for an empty one. */
export function boxOf(mask, width) {
  let box = null;
  mask.forEach((value, i) => {
    if (!value) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    box = box
      ? [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x + 1), Math.max(box[3], y + 1)]
      : [x, y, x + 1, y + 1];
  });
  return box;
}

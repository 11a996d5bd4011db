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
const SIDE = 96;
const CONTRAST = 3 * 32;
const FEWEST_PAIRS = 20;
const FLAT = 0.9;

/** Whether a picture has colors, as three sequences in one have; a tint all over is none. */
export function hasColor(image) {
  const scale = Math.min(1, 128 / Math.max(image.width, image.height));
  const side = (length) => Math.max(1, roundHalfEven(length * scale));
  const { data } = resize(image, side(image.width), side(image.height), "bilinear");
  let most = 1;
  for (const value of data) most = Math.max(most, value);
  const lit = [];
  const means = [0, 0, 0];
  for (let i = 0; i < data.length; i += 3) {
    if (Math.max(data[i], data[i + 1], data[i + 2]) <= 0.1 * most) continue;
    lit.push(i);
    for (let c = 0; c < 3; c++) means[c] += data[i + c];
  }
  if (lit.length === 0) return false;
  for (let c = 0; c < 3; c++) means[c] = Math.max(means[c] / lit.length, 1);
  const mean = (means[0] + means[1] + means[2]) / 3;
  let [sum, brightest] = [0, 0];
  for (const i of lit) {
    const even = means.map((one, c) => (data[i + c] * mean) / one);
    sum += Math.max(...even) - Math.min(...even);
    brightest = Math.max(brightest, ...even);
  }
  return sum / lit.length > COLORFUL * brightest;
}

/** Whether a picture is a mask, a map of labels or a drawing: flat areas, where a scan has noise. */
export function isDrawing({ data, width, height }) {
  const step = Math.max(1, Math.floor(Math.max(width, height) / SIDE));
  const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
  const level = (x, y) => {
    const i = 3 * (y * step * width + x * step);
    return data[i] + data[i + 1] + data[i + 2];
  };
  let [low, high] = [3 * 255, 0];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      low = Math.min(low, level(x, y));
      high = Math.max(high, level(x, y));
    }
  }
  const contrast = high - low;
  if (contrast < CONTRAST) return false;
  // Without the page that a scan may lie on.
  let [left, top, right, bottom] = [columns, rows, -1, -1];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (Math.abs(level(x, y) - level(0, 0)) <= contrast / 16) continue;
      [left, top] = [Math.min(left, x), Math.min(top, y)];
      [right, bottom] = [Math.max(right, x), Math.max(bottom, y)];
    }
  }
  const counts = new Uint32Array(3 * 255 + 1);
  for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) counts[level(x, y)]++;
  const background = counts.indexOf(Math.max(...counts));
  const shown = (x, y) => Math.abs(level(x, y) - background) > contrast / 16;
  let [pairs, same] = [0, 0];
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      if (!shown(x, y)) continue;
      for (const [u, v] of [
        [x + 1, y],
        [x, y + 1],
      ]) {
        if (u > right || v > bottom || !shown(u, v)) continue;
        pairs++;
        same += level(u, v) === level(x, y);
      }
    }
  }
  return pairs >= FEWEST_PAIRS && same >= FLAT * pairs;
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

// A file becomes RGB pixels, as bthub reads them: PNG here, digit for digit and 16 bits too; the rest by the browser.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_PIXELS = 16 * 2 ** 20;
const MIN_SIDE = 16;
const MAX_ASPECT = 32;

/** What a person can mend; its text is shown. */
export class PictureError extends Error {}

/** What doesn't look like a slice of a brain MRI; it can be analyzed all the same. */
export class NotASliceError extends PictureError {}

/**
 * @param {ArrayBuffer} buffer the file
 * @returns {Promise<{data: Uint8Array, width: number, height: number}>} three bytes a pixel
 */
export async function readPicture(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length === 0) throw new PictureError("The file is empty.");
  const isPng = SIGNATURE.every((value, i) => bytes[i] === value);
  const magic = String.fromCharCode(...bytes.slice(0, 4));
  if (magic === "II*\0" || magic === "MM\0*") {
    throw new PictureError(
      "Browsers can't read TIFF: save the slice as PNG, or use the app on a server (link at the top of this page), which reads TIFF.",
    );
  }
  const image = (isPng && (await readPng(bytes))) || (await readByBrowser(buffer));
  let least = 255;
  let most = 0;
  for (const value of image.data) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  if (most - least <= 1) throw new PictureError("The picture is blank: all its pixels have nearly the same value.");
  return image;
}

function checkSize(width, height) {
  if (width * height > MAX_PIXELS) {
    throw new PictureError(
      `The picture is too large for this page: ${width} × ${height} pixels. Use the app on a server (link at the top) instead.`,
    );
  }
  if (Math.min(width, height) < MIN_SIDE) {
    throw new PictureError(`The picture is too small: ${width} × ${height} pixels; each side needs ${MIN_SIDE}.`);
  }
  if (Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
    throw new PictureError(`The picture is too elongated for a slice: ${width} × ${height} pixels.`);
  }
}

async function readByBrowser(buffer) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([buffer]), { colorSpaceConversion: "none" });
  } catch {
    throw new PictureError("This isn't a picture that can be read here: choose a PNG, JPEG, WebP, BMP or GIF file.");
  }
  checkSize(bitmap.width, bitmap.height);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000"; // what is transparent is put on black
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  return { data, width, height };
}

/** A PNG's pixels; null for the rare kinds that are left to the browser (interlaced, a transparent color). */
async function readPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const damaged = new PictureError("The PNG file is truncated or damaged.");
  let header = null;
  let palette = null;
  let paletteAlpha = null;
  const parts = [];
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (body.length < length) throw damaged;
    if (type === "IHDR") {
      const at8 = at + 8;
      header = { width: view.getUint32(at8), height: view.getUint32(at8 + 4), depth: body[8], color: body[9] };
      if (body[12] !== 0) return null; // interlaced
    } else if (type === "PLTE") palette = body;
    else if (type === "tRNS") paletteAlpha = body;
    else if (type === "acTL" || type === "eXIf") return null;
    else if (type === "IDAT") parts.push(body);
    else if (type === "IEND") break;
    at += 12 + length;
  }
  if (!header || parts.length === 0) throw damaged;
  const { width, height, depth, color } = header;
  const channels = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[color];
  if (!channels || (paletteAlpha && color !== 3)) return null;
  checkSize(width, height);
  const row = Math.ceil((width * channels * depth) / 8);
  const raw = await inflate(parts, (row + 1) * height);
  if (raw.length < (row + 1) * height) throw damaged;
  const lines = unfilter(raw, row, height, Math.max(1, (channels * depth) / 8));
  let samples = unpack(lines, row, width * channels, height, depth);
  let count = channels;
  if (color === 3) {
    if (!palette) throw damaged;
    const alpha = paletteAlpha ?? [];
    const full = new Uint8Array(width * height * 4);
    samples.forEach((index, i) => {
      full.set(palette.subarray(3 * index, 3 * index + 3), 4 * i);
      full[4 * i + 3] = alpha[index] ?? 255;
    });
    [samples, count] = [full, 4];
  } else if (depth < 8) {
    const factor = 255 / (2 ** depth - 1);
    samples = samples.map((value) => value * factor);
  }
  return toRgb(samples, count, width, height, depth === 16);
}

async function inflate(parts, size) {
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const result = new Uint8Array(size);
  let filled = 0;
  try {
    // No more than the header promises is unpacked, whatever the file holds.
    while (filled < size) {
      const { done, value } = await reader.read();
      if (done) break;
      const part = value.subarray(0, size - filled);
      result.set(part, filled);
      filled += part.length;
    }
    await reader.cancel();
  } catch {
    throw new PictureError("The PNG file is truncated or damaged.");
  }
  return result.subarray(0, filled);
}

function unfilter(raw, row, height, step) {
  const lines = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    const kind = raw[y * (row + 1)];
    const from = y * (row + 1) + 1;
    const to = y * row;
    for (let x = 0; x < row; x++) {
      const left = x >= step ? lines[to + x - step] : 0;
      const up = y ? lines[to + x - row] : 0;
      const corner = y && x >= step ? lines[to + x - row - step] : 0;
      let guess = 0;
      if (kind === 1) guess = left;
      else if (kind === 2) guess = up;
      else if (kind === 3) guess = (left + up) >> 1;
      else if (kind === 4) {
        const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
        guess = a <= b && a <= c ? left : b <= c ? up : corner;
      }
      lines[to + x] = raw[from + x] + guess;
    }
  }
  return lines;
}

function unpack(lines, row, count, height, depth) {
  if (depth === 8) return lines;
  const samples = depth === 16 ? new Uint16Array(count * height) : new Uint8Array(count * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < count; x++) {
      const at = y * row;
      if (depth === 16) samples[y * count + x] = (lines[at + 2 * x] << 8) | lines[at + 2 * x + 1];
      else {
        const bit = x * depth;
        samples[y * count + x] = (lines[at + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
      }
    }
  }
  return samples;
}

function toRgb(samples, channels, width, height, deep) {
  const pixels = width * height;
  const hasAlpha = channels === 2 || channels === 4;
  const colors = channels < 3 ? 1 : 3;
  let values = samples;
  const alpha = new Float64Array(hasAlpha ? pixels : 0);
  if (hasAlpha) {
    values = new samples.constructor(pixels * colors);
    let most = 0;
    for (let i = 0; i < pixels; i++) {
      alpha[i] = samples[i * channels + channels - 1];
      most = Math.max(most, alpha[i]);
      // What cannot be seen must not set the window.
      for (let c = 0; c < colors; c++) values[i * colors + c] = alpha[i] > 0 ? samples[i * channels + c] : 0;
    }
    const scale = most <= 255 ? 255 : 65535;
    for (let i = 0; i < pixels; i++) alpha[i] = Math.min(1, alpha[i] / scale);
  }
  const levels = deep ? window16(values) : values;
  const data = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) {
      const value = levels[i * colors + (colors === 1 ? 0 : c)];
      data[3 * i + c] = hasAlpha ? even(value * alpha[i]) : value;
    }
  }
  return { data, width, height };
}

/** 16 bits to 8: those that are 8 in a larger type as they are, else from the 0.1th to the 99.9th percentile. */
function window16(values) {
  let [least, most] = [65535, 0];
  let [by257, by256] = [true, true];
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
    if (value % 257) by257 = false;
    if (value % 256) by256 = false;
  }
  if (most <= 255) return Uint8Array.from(values);
  if (by257 || by256) return Uint8Array.from(values, (value) => Math.floor(value / (by257 ? 257 : 256)));
  const step = Math.floor(values.length / 2 ** 22) + 1;
  const sorted = Uint16Array.from({ length: Math.ceil(values.length / step) }, (_, i) => values[i * step]).sort();
  let [bottom, top] = [percentile(sorted, 0.001), percentile(sorted, 0.999)];
  if (top <= bottom) [bottom, top] = [least, most];
  const scale = Math.fround(255 / (top - bottom));
  return Uint8Array.from(values, (value) => {
    const shifted = Math.fround(Math.fround(Math.min(top, Math.max(bottom, value))) - Math.fround(bottom));
    return even(Math.fround(shifted * scale));
  });
}

function percentile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

function even(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// Pillow's resampling of 8-bit pictures, digit for digit: two passes of weighted sums in whole numbers.
// The models were trained on pictures that Pillow reduced; a canvas would give them others.

const PRECISION_BITS = 22;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
};

/** Python's round: to the nearest whole number, to the even one of two. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** For each of `wanted` places, where its weights begin in `length` and what they are, in whole numbers. */
function coefficients(length, wanted, { support, weight }) {
  const scale = length / wanted;
  const stretch = Math.max(1, scale);
  const reach = support * stretch;
  const places = [];
  for (let place = 0; place < wanted; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(length, Math.trunc(center + reach + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = first; x < end; x++) {
      const value = weight((x - center + 0.5) * (1 / stretch));
      weights.push(value);
      sum += value;
    }
    places.push({ first, weights: weights.map((value) => Math.trunc(0.5 + (value / sum) * 2 ** PRECISION_BITS)) });
  }
  return places;
}

/**
 * Resize RGB pixels.
 * @param {{data: Uint8Array, width: number, height: number}} image three bytes a pixel
 * @param {number} width
 * @param {number} height
 * @param {"bilinear" | "box"} filter
 */
export function resize(image, width, height, filter) {
  let { data } = image;
  if (width !== image.width) {
    data = pass(data, image.height, image.width * 3, 3, width, coefficients(image.width, width, FILTERS[filter]));
  }
  if (height !== image.height) {
    const places = coefficients(image.height, height, FILTERS[filter]);
    const result = new Uint8Array(width * height * 3);
    const row = width * 3;
    places.forEach(({ first, weights }, y) => {
      for (let x = 0; x < row; x++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let k = 0; k < weights.length; k++) sum += data[(first + k) * row + x] * weights[k];
        result[y * row + x] = clip(sum);
      }
    });
    data = result;
  }
  return { data, width, height };
}

function pass(data, rows, stride, channels, wanted, places) {
  const result = new Uint8Array(rows * wanted * channels);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < wanted; x++) {
      const { first, weights } = places[x];
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let k = 0; k < weights.length; k++) sum += data[y * stride + (first + k) * channels + c] * weights[k];
        result[(y * wanted + x) * channels + c] = clip(sum);
      }
    }
  }
  return result;
}

function clip(sum) {
  return Math.min(255, Math.max(0, Math.floor(sum / 2 ** PRECISION_BITS)));
}

// Reads a picture, runs the networks on it and answers; in a thread of its own, so that the page stays alive.

import * as ort from "./ort/ort.wasm.min.mjs";
import { NotASliceError, PictureError, readPicture } from "./picture.js";
import {
  boxOf,
  calibrate,
  checkPixels,
  detectorPixels,
  hasColor,
  isDrawing,
  localizerPixels,
  maskOf,
  softmax,
} from "./stages.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
// Threads need a page that is isolated from others, which its server has to say.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

const loading = load();
loading.catch((error) => {
  setTimeout(() => {
    throw error; // for the page, as an error of this worker
  });
});

async function load() {
  const models = await (await fetch("./models.json")).json();
  const received = {};
  const networks = {};
  const total = models.bytes;
  for (const stage of ["check", "detector", "localizer"]) {
    if (!models[stage]) continue;
    const content = await download(models[stage].file, (bytes) => {
      received[stage] = bytes;
      const sum = Object.values(received).reduce((a, b) => a + b);
      self.postMessage({ kind: "progress", received: sum, total });
    });
    networks[stage] = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  }
  self.postMessage({ kind: "ready", models });
  return { models, networks };
}

async function download(file, progress) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  const reader = answer.body.getReader();
  const parts = [];
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    progress(received);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function run(network, pixels, size) {
  const input = new ort.Tensor("float32", pixels, [1, 3, size, size]);
  const answer = await network.run({ pixel_values: input });
  return network.outputNames.map((name) => answer[name].data);
}

async function analyze(buffer, checkInput) {
  const { models, networks } = await loading;
  const image = await readPicture(buffer);
  const { detector, localizer, check } = models;
  let gray = null; // the kind, were the picture gray
  if (check) {
    const [[distance], toward] = await run(networks.check, checkPixels(image, check.size), check.size);
    if (checkInput && (distance > check.threshold || isDrawing(image))) {
      throw new NotASliceError("This doesn't look like a slice of a brain MRI, the only kind of picture the models know.");
    }
    if (check.kinds.length && toward) gray = toward[0] > 0 ? check.kinds[0] : check.kinds[1];
  }
  const kind = hasColor(image) ? "three_sequences" : gray;
  const point = detector.points[kind] ?? detector.points.unknown;
  const [logits] = await run(networks.detector, detectorPixels(image, detector.size), detector.size);
  const probability = calibrate(softmax(logits)[detector.labels.indexOf("tumor")], point.temperature);
  const tumor = probability >= point.threshold;
  const [low, high] = point.referral_band ?? [0, 0];
  const uncertain = probability >= low && probability < high;
  const result = {
    verdict: uncertain ? "uncertain" : tumor ? "tumor" : "no_tumor",
    label: tumor ? "tumor" : "no_tumor",
    tumor_probability: probability,
    threshold: point.threshold,
    referral_band: point.referral_band,
    uncertain,
    input_kind: kind,
    width: image.width,
    height: image.height,
    area_px: 0,
    bbox: null,
    mask: null,
    image: image.data,
    models: { detector: detector.model, localizer: localizer.model },
  };
  if (tumor) {
    const [map] = await run(networks.localizer, localizerPixels(image, localizer.size), localizer.size);
    const { mask, area } = maskOf(map, localizer.size, image, localizer.points[kind] ?? localizer.points.unknown);
    Object.assign(result, { mask, area_px: area, bbox: boxOf(mask, image.width) });
  }
  return result;
}

// One picture after the other: a network takes one at a time.
let last = Promise.resolve();
self.onmessage = ({ data: { number, buffer, checkInput } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ kind: "result", number, result: await analyze(buffer, checkInput) });
    } catch (error) {
      const text = error instanceof PictureError ? error.message : null;
      if (!text) console.error(error);
      self.postMessage({ kind: "error", number, text, refused: error instanceof NotASliceError });
    }
  });
};

// The page: takes a picture, hands it to the worker, shows the answer. Nothing leaves the visitor's machine.

const element = (id) => document.getElementById(id);
// As `bthub.imaging.kinds.ROUGH`.
const ROUGH = "The outline is a rough guess: on gray slices other than FLAIR the model is much less accurate.";
const CONTROL_SECONDS = 60; // at most; a keeper that fails says so before
const waiting = new Map();
let number = 0;

/** Waits until what is loaded is kept for later visits; where the browser keeps nothing, goes on without. */
async function kept() {
  const container = navigator.serviceWorker;
  if (!container) return;
  let registration;
  try {
    registration = await container.register("./offline.js");
  } catch {
    return; // in a private window, or in a frame that may not
  }
  if (container.controller) return;
  // It takes the page over before it is "activated". On a slow machine that takes a while; loaded before, the models
  // would not be kept.
  const keeper = registration.installing ?? registration.waiting ?? registration.active;
  const settled = () => keeper.state === "activated" || keeper.state === "redundant";
  await Promise.race([
    new Promise((resolve) => {
      if (settled()) resolve();
      keeper.addEventListener("statechange", () => settled() && resolve());
    }),
    new Promise((resolve) => setTimeout(resolve, 1000 * CONTROL_SECONDS)),
  ]);
}

async function start() {
  await kept();
  const worker = new Worker("./worker.js", { type: "module" });
  const loaded = new Promise((resolve) => {
    worker.onmessage = ({ data }) => {
      if (data.kind === "progress") {
        element("bar").value = data.received / data.total;
        element("state").textContent = `Loading the models: ${megabytes(data.received)} of ${megabytes(data.total)} MB`;
      } else if (data.kind === "ready") {
        element("loading").hidden = true;
        element("names").textContent = [data.models.detector.model, data.models.localizer.model]
          .map(({ id, revision }) => `${id} ${revision}`)
          .join(", ");
        resolve(worker);
      } else {
        const { resolve: answer, reject } = waiting.get(data.number);
        waiting.delete(data.number);
        if (data.kind === "result") answer(data.result);
        else {
          const error = new Error(data.text ?? "Something failed. Load the page again, or try another picture.");
          reject(Object.assign(error, { refused: data.refused }));
        }
      }
    };
    worker.onerror = failed;
  });
  return loaded;
}

function failed() {
  element("state").textContent = "The models could not be loaded: check the network, then load the page again.";
}

const ready = start();
ready.catch(failed);

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(0);
}

/** Analyze a file's bytes; also for tests. */
async function analyze(buffer, checkInput = true) {
  const worker = await ready;
  return new Promise((resolve, reject) => {
    waiting.set(++number, { resolve, reject });
    worker.postMessage({ number, buffer, checkInput });
  });
}

/** Analyze and show a picture; `load` gives its bytes. */
async function show(name, load, checked = true) {
  const result = element("result");
  result.setAttribute("aria-busy", "true");
  try {
    draw(name, await analyze(await load(), checked), checked);
  } catch (error) {
    result.replaceChildren(text("h2", "This picture could not be analyzed"), text("p", error.message));
    result.className = "error";
    if (error.refused) {
      const button = text("button", "Analyze anyway");
      button.addEventListener("click", () => show(name, load, false));
      result.append(text("p", "If you are sure that it is a slice of a brain MRI:"), button);
    }
  }
  result.removeAttribute("aria-busy");
  result.focus({ preventScroll: true });
}

function text(tag, content, kind) {
  const made = document.createElement(tag);
  made.textContent = content;
  if (kind) made.className = kind;
  return made;
}

/** A probability as the app writes it, in whole percent; never 0% or 100%, which no model can promise. */
function percent(share) {
  if (share > 0 && share < 0.01) return "under 1%";
  if (share > 0.99 && share < 1) return "over 99%";
  return `${Math.round(100 * share)}%`;
}

function draw(name, found, checked) {
  const tumor = found.label === "tumor";
  const verdict = { tumor: "Tumor suspected", no_tumor: "No tumor found", uncertain: "Uncertain" };
  const parts = [
    text("p", name, "name"),
    text("h2", checked ? verdict[found.verdict] : `Unchecked: ${verdict[found.verdict].toLowerCase()}`),
    text("p", `${percent(found.tumor_probability)} probability of a tumor on this slice`, "probability"),
    text("p", `A tumor is suspected if the probability is ${percent(found.threshold)} or more (the threshold).`),
  ];
  if (found.uncertain) {
    const [low, high] = found.referral_band.map(percent);
    parts.push(text("p", `Between ${low} and ${high} the model is often wrong: a specialist should look.`, "notice"));
  }
  if (!checked) parts.push(text("p", "This doesn't look like a slice of a brain MRI. If it isn't one, the result means nothing.", "notice"));
  if (!tumor) parts.push(text("p", "This is not an all-clear: only one slice was analyzed, the models know only a few kinds of tumor, and they miss some tumors. A tumor may be on another slice."));
  else if (!found.bbox) parts.push(text("p", "Nothing was outlined: the suspected tumor is too small or too faint to mark."));
  else {
    const [x0, y0, x1, y1] = found.bbox;
    parts.push(
      text("p", `Area ${found.area_px.toLocaleString("en")} pixels, box ${x0},${y0} to ${x1},${y1}.`),
      text("p", "The marked area is an estimate by a model, not a diagnosis."),
    );
    if (found.input_kind === "other_mri") parts.push(text("p", ROUGH));
  }
  parts.push(picture(found));
  const kept = { ...found, image: undefined, mask: undefined };
  parts.push(download(`${stem(name)}.json`, new Blob([JSON.stringify(kept, null, 2)]), "Result (JSON)"));
  parts.push(text("p", "Research software, not a medical device: do not use it to diagnose or treat anyone.", "notice"));
  const result = element("result");
  result.replaceChildren(...parts);
  // Whatever the model says of an unchecked picture, it isn't good news.
  result.className = checked || found.verdict === "tumor" ? found.verdict : "uncertain";
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "");
}

function download(name, blob, label) {
  const link = text("a", label);
  link.href = URL.createObjectURL(blob);
  link.download = name;
  return link;
}

/** The slice with the mask tinted and outlined, and its box. */
function picture({ image, mask, width, height, bbox, label }) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height, role: "img" });
  canvas.setAttribute("aria-label", label === "tumor" ? "The slice with the suspected tumor in red" : "The slice");
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const inside = (x, y) => mask && x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const edge = inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1));
      for (let c = 0; c < 3; c++) {
        const tint = c === 0 ? 255 : 0;
        const share = edge ? 1 : inside(x, y) ? 0.35 : 0;
        pixels.data[4 * i + c] = (1 - share) * image[3 * i + c] + share * tint;
      }
      pixels.data[4 * i + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  if (bbox) {
    context.strokeStyle = "rgb(255 215 0)";
    context.strokeRect(bbox[0] + 0.5, bbox[1] + 0.5, bbox[2] - bbox[0] - 1, bbox[3] - bbox[1] - 1);
  }
  return canvas;
}

/** The bytes of an example. */
async function example(file) {
  const answer = await fetch(`./examples/${file}`).catch(() => null);
  if (!answer?.ok) throw new Error("The example could not be loaded: check the network, then try again.");
  return answer.arrayBuffer();
}

async function take(file) {
  if (file) await show(file.name, () => file.arrayBuffer());
}

element("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = "";
});
const zone = document.body;
zone.addEventListener("dragover", (event) => event.preventDefault());
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", () => show(button.dataset.file, () => example(button.dataset.file)));
}
window.bthub = { analyze, ready };

// A slice with its overlay, many slices with a slider, and a brush. One <div class="viewer"> each.
"use strict";

const viewers = new Map();

class Viewer {
  constructor(root) {
    this.root = root;
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    this.slices = data.slices;
    this.words = data.words;
    this.token = data.token;
    this.at = data.start;
    this.canvas = root.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.stage = root.querySelector(".viewer-stage");
    this.slider = root.querySelector("[data-slider]");
    this.place = root.querySelector("[data-place]");
    this.caption = root.querySelector("[data-caption]");
    this.controls = Object.fromEntries([...root.querySelectorAll("[data-control]")].map((one) => [one.dataset.control, one]));
    this.images = new Map();
    this.masks = new Map();
    this.heats = new Map();
    this.edit = null;
    this.sending = false; // until the answer, nothing is drawn and no other slice is shown: it would be lost
    this.listeners = [];
    this.listen();
    this.go(this.at);
  }

  listen() {
    this.slider?.addEventListener("input", () => this.go(Number(this.slider.value)));
    for (const name of ["opacity", "outline", "box", "heat"]) {
      this.controls[name]?.addEventListener("input", () => this.draw());
    }
    this.stage.addEventListener("wheel", (event) => {
      if (this.slices.length < 2 || event.ctrlKey) return;
      event.preventDefault();
      this.wheel = (this.wheel || 0) + event.deltaY;
      if (Math.abs(this.wheel) < 30) return;
      this.go(this.at + Math.sign(this.wheel));
      this.wheel = 0;
    }, { passive: false });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.controls.correct?.addEventListener("click", () => this.begin());
    this.controls.save?.addEventListener("click", () => this.save());
    this.controls.cancel?.addEventListener("click", () => this.end());
    this.controls.undo?.addEventListener("click", () => this.undo());
    this.controls.clear?.addEventListener("click", () => this.clear());
    this.controls.revert?.addEventListener("click", () => this.revert());
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const type of ["pointerup", "pointercancel"]) this.canvas.addEventListener(type, () => this.up());
    this.canvas.addEventListener("pointerleave", () => { this.pointer = null; this.soon(); });
    window.addEventListener("beforeunload", (event) => { if (this.edit?.steps.length) event.preventDefault(); });
  }

  key(event) {
    if (event.ctrlKey && event.key.toLowerCase() === "z" && this.edit) { event.preventDefault(); this.undo(); return; }
    // Brackets need AltGr or Option on many keyboards.
    const bracket = (event.key === "[" || event.key === "]") && (event.altKey || event.getModifierState("AltGraph"));
    if ((event.ctrlKey || event.metaKey || event.altKey) && !bracket) return;
    const typing = event.target.matches("input[type=text], textarea, select");
    if (typing) return;
    const tick = (name) => { const box = this.controls[name]; if (box) { box.checked = !box.checked; this.draw(); } };
    const size = (by) => { const one = this.controls.size; if (one) { one.value = Number(one.value) + by; this.soon(); } };
    const range = event.target.matches("input[type=range]");
    const acts = {
      ArrowLeft: () => this.go(this.at - 1), ArrowRight: () => this.go(this.at + 1),
      ArrowUp: () => this.go(this.at - 1), ArrowDown: () => this.go(this.at + 1),
      PageUp: () => this.go(this.at - 10), PageDown: () => this.go(this.at + 10),
      Home: () => this.go(0), End: () => this.go(this.slices.length - 1),
      o: () => tick("outline"), b: () => tick("box"), h: () => tick("heat"),
      "+": () => this.fade(10), "-": () => this.fade(-10),
      c: () => this.begin(), s: () => this.edit && this.save(), Escape: () => this.edit && this.leave(),
      e: () => this.edit && this.swap(), "[": () => size(-1), "]": () => size(1), z: () => this.edit && this.undo(),
    };
    if (range && event.key.startsWith("Arrow")) return;
    if (this.edit && event.target === this.stage && this.steer(event)) { event.preventDefault(); return; }
    const act = acts[event.key];
    if (act) { event.preventDefault(); act(); }
  }

  fade(by) {
    const one = this.controls.opacity;
    if (one) { one.value = Number(one.value) + by; this.draw(); }
  }

  swap() {
    const one = this.root.querySelector(`input[data-tool="${this.tool() === "brush" ? "eraser" : "brush"}"]`);
    if (one) one.checked = true;
  }

  tool() { return this.root.querySelector("input[data-tool]:checked")?.dataset.tool || "brush"; }

  async go(index) {
    const next = Math.max(0, Math.min(this.slices.length - 1, index));
    if (next !== this.at && (this.sending || (this.edit && !this.leave()))) {
      if (this.slider) this.slider.value = this.at;
      return;
    }
    this.at = next;
    if (this.slider) this.slider.value = next;
    this.tell();
    for (const listener of this.listeners) listener(next);
    await this.load(next);
    if (this.at === next) this.draw();
    for (const near of [next + 1, next - 1]) if (this.slices[near]) this.load(near);
  }

  tell() {
    const one = this.slices[this.at];
    const place = this.words.slice.replace("{number}", this.at + 1).replace("{count}", this.slices.length);
    if (this.place) this.place.textContent = place;
    if (this.slider) this.slider.setAttribute("aria-valuetext", `${place}, ${one.area}`);
    this.caption.replaceChildren();
    const left = document.createElement("span");
    const strong = document.createElement("strong");
    const unsure = one.uncertain ? ` (${this.words.uncertain})` : "";
    strong.textContent = `${this.words[one.label] || ""}${unsure} ${one.probability}`;
    left.append(strong, ` · ${one.area}${one.by_hand ? " · " + this.words.by_hand : ""}`);
    const right = document.createElement("span");
    right.className = "break";
    right.textContent = one.name;
    this.caption.append(left, right);
    const chart = document.querySelector(`[data-chart="${this.root.id}"]`);
    chart?.querySelector(".here")?.setAttribute("x", this.at * Number(chart.dataset.step));
    if (this.controls.revert) this.controls.revert.hidden = !one.by_hand || Boolean(this.edit);
  }

  picture(address) {
    return new Promise((done, fail) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => fail(new Error("picture"));
      image.src = address;
    });
  }

  async load(index) {
    const one = this.slices[index];
    const jobs = [];
    if (!this.images.has(index)) jobs.push(this.picture(one.picture).then((image) => this.images.set(index, image)));
    if (one.mask && !this.masks.has(index)) {
      jobs.push(this.picture(one.mask).then((image) => this.masks.set(index, this.pixels(image, one))));
    }
    // One that fails leaves the others; the stage stays black.
    await Promise.allSettled(jobs);
    // Volumes: far slices are let go.
    for (const kept of [this.images, this.masks]) {
      for (const key of kept.keys()) if (kept.size > 60 && Math.abs(key - this.at) > 25) kept.delete(key);
    }
  }

  pixels(image, one) {
    const canvas = document.createElement("canvas");
    canvas.width = one.width; canvas.height = one.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, one.width, one.height).data;
    const mask = new Uint8Array(one.width * one.height);
    for (let i = 0; i < mask.length; i++) mask[i] = rgba[4 * i] > 127 ? 1 : 0;
    return mask;
  }

  soon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.draw(); });
  }

  async draw() {
    const one = this.slices[this.at];
    const image = this.images.get(this.at);
    if (!image) return;
    const scale = Math.max(1, Math.round(900 / Math.max(one.width, one.height)));
    const [width, height] = [one.width * scale, one.height * scale];
    if (this.canvas.width !== width || this.canvas.height !== height) { this.canvas.width = width; this.canvas.height = height; }
    const context = this.context;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height);
    if (this.controls.heat?.checked && !this.edit) await this.drawHeat(context, one, width, height);
    const mask = this.edit ? this.edit.mask : this.masks.get(this.at);
    const opacity = this.controls.opacity ? Number(this.controls.opacity.value) / 100 : 0.5;
    if (mask && opacity > 0) {
      if (this.controls.outline?.checked) this.drawOutline(context, mask, one, scale, opacity);
      else this.drawFill(context, mask, one, width, height, opacity);
      if (this.controls.box?.checked) this.drawBox(context, mask, one, scale);
    }
    if (this.edit && this.pointer) {
      context.lineWidth = 1.5;
      context.strokeStyle = this.tool() === "brush" ? "#fff" : "#7dd3fc";
      context.beginPath();
      context.arc(this.pointer.x * scale, this.pointer.y * scale, Number(this.controls.size.value) * scale / 2, 0, 7);
      context.stroke();
    }
    this.root.dataset.drawn = this.at;
  }

  drawFill(context, mask, one, width, height, opacity) {
    const layer = document.createElement("canvas");
    layer.width = one.width; layer.height = one.height;
    const inner = layer.getContext("2d");
    const data = inner.createImageData(one.width, one.height);
    for (let i = 0; i < mask.length; i++) if (mask[i]) { data.data[4 * i] = 255; data.data[4 * i + 3] = 255; }
    inner.putImageData(data, 0, 0);
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(layer, 0, 0, width, height);
    context.globalAlpha = 1;
  }

  drawOutline(context, mask, one, scale, opacity) {
    const { width: w, height: h } = one;
    context.globalAlpha = Math.min(1, opacity * 2);
    context.strokeStyle = "#ff2d2d";
    context.lineWidth = Math.max(2, scale * 0.6);
    context.beginPath();
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        if (!mask[y * w + x]) continue;
        if (x === 0 || !mask[y * w + x - 1]) { context.moveTo(x * scale, y * scale); context.lineTo(x * scale, (y + 1) * scale); }
        if (x === w - 1 || !mask[y * w + x + 1]) { context.moveTo((x + 1) * scale, y * scale); context.lineTo((x + 1) * scale, (y + 1) * scale); }
        if (y === 0 || !mask[(y - 1) * w + x]) { context.moveTo(x * scale, y * scale); context.lineTo((x + 1) * scale, y * scale); }
        if (y === h - 1 || !mask[(y + 1) * w + x]) { context.moveTo(x * scale, (y + 1) * scale); context.lineTo((x + 1) * scale, (y + 1) * scale); }
      }
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  drawBox(context, mask, one, scale) {
    let [x0, y0, x1, y1] = [one.width, one.height, -1, -1];
    for (let i = 0; i < mask.length; i++) {
      if (!mask[i]) continue;
      const [x, y] = [i % one.width, Math.floor(i / one.width)];
      x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
    }
    if (x1 < 0) return;
    context.strokeStyle = "#ffd700";
    context.lineWidth = 2;
    context.strokeRect(x0 * scale, y0 * scale, (x1 + 1 - x0) * scale, (y1 + 1 - y0) * scale);
  }

  async drawHeat(context, one, width, height) {
    const at = this.at;
    if (!this.heats.has(at)) {
      try { this.heats.set(at, this.colored(await this.picture(one.heat), one)); } catch {
        this.controls.heat.checked = false;
        this.say(this.words.no_heat);
        return;
      }
      if (at !== this.at) return;
    }
    context.globalAlpha = 0.55;
    context.drawImage(this.heats.get(at), 0, 0, width, height);
    context.globalAlpha = 1;
  }

  colored(image, one) {
    const canvas = document.createElement("canvas");
    canvas.width = one.width; canvas.height = one.height;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, one.width, one.height);
    const data = context.getImageData(0, 0, one.width, one.height);
    for (let i = 0; i < data.data.length; i += 4) {
      const v = data.data[i] / 255; // dark violet to yellow, transparent where nothing was seen
      data.data[i] = 255 * Math.min(1, 1.6 * v); data.data[i + 1] = 255 * v * v; data.data[i + 2] = 110 * (1 - v);
      data.data[i + 3] = 255 * Math.min(1, 1.4 * v);
    }
    context.putImageData(data, 0, 0);
    return canvas;
  }

  // -- correcting

  begin() {
    const one = this.slices[this.at];
    if (!this.controls.save || this.edit || this.sending || !this.images.has(this.at)) return;
    const mask = this.masks.get(this.at);
    this.edit = { mask: mask ? mask.slice() : new Uint8Array(one.width * one.height), steps: [] };
    this.mode(true);
  }

  mode(on) {
    this.root.classList.toggle("editing", on);
    for (const part of this.root.querySelectorAll("[data-editing]")) part.hidden = !on;
    for (const part of this.root.querySelectorAll("[data-viewing]")) part.hidden = on;
    this.tell();
    this.draw();
    this.stage.focus({ preventScroll: true });
  }

  leave() {
    if (this.sending) return false;
    if (this.edit?.steps.length && !window.confirm(this.words.unsaved)) return false;
    this.end();
    return true;
  }

  end() { this.edit = null; this.mode(false); this.say(""); }

  spot(event) {
    const one = this.slices[this.at];
    const box = this.canvas.getBoundingClientRect();
    const factor = Math.min(box.width / one.width, box.height / one.height);
    return {
      x: (event.clientX - box.left - (box.width - one.width * factor) / 2) / factor,
      y: (event.clientY - box.top - (box.height - one.height * factor) / 2) / factor,
    };
  }

  down(event) {
    if (!this.edit || this.sending || event.button > 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.remember();
    this.drawing = this.spot(event);
    this.paint(this.drawing, this.drawing);
  }

  move(event) {
    if (!this.edit) return;
    this.pointer = this.spot(event);
    if (this.drawing) { this.paint(this.drawing, this.pointer); this.drawing = this.pointer; }
    this.soon();
  }

  up() { this.drawing = null; }

  // The brush by keyboard: arrows move it, with Shift it draws on the way, Space draws where it is.
  steer(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] };
    const way = ways[event.key];
    if (!way) return false;
    const one = this.slices[this.at];
    const from = this.pointer || { x: one.width / 2, y: one.height / 2 };
    const step = Math.max(1, Number(this.controls.size.value) / 4);
    const within = (value, side) => Math.max(0, Math.min(side, value));
    this.pointer = { x: within(from.x + way[0] * step, one.width), y: within(from.y + way[1] * step, one.height) };
    if (!this.sending && (event.key === " " || event.shiftKey)) {
      // A key that is held down is one stroke to take back.
      if (!event.repeat) this.remember();
      this.paint(from, this.pointer);
    }
    this.soon();
    return true;
  }

  remember() {
    this.edit.steps.push(this.edit.mask.slice());
    if (this.edit.steps.length > 40) this.edit.steps.shift();
  }

  paint(from, to) {
    const one = this.slices[this.at];
    const radius = Number(this.controls.size.value) / 2;
    const value = this.tool() === "brush" ? 1 : 0;
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(0.5, radius / 2)));
    for (let s = 0; s <= steps; s++) {
      const [cx, cy] = [from.x + (to.x - from.x) * s / steps, from.y + (to.y - from.y) * s / steps];
      for (let y = Math.max(0, Math.floor(cy - radius)); y <= Math.min(one.height - 1, Math.ceil(cy + radius)); y++) {
        for (let x = Math.max(0, Math.floor(cx - radius)); x <= Math.min(one.width - 1, Math.ceil(cx + radius)); x++) {
          if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= radius ** 2) this.edit.mask[y * one.width + x] = value;
        }
      }
    }
    this.count();
    this.soon();
  }

  count() {
    let area = 0;
    for (const pixel of this.edit.mask) area += pixel;
    this.say(this.words.outline_pixels.replace("{count}", area));
  }

  undo() {
    const before = this.sending ? null : this.edit?.steps.pop();
    if (before) { this.edit.mask = before; this.count(); this.soon(); }
  }

  clear() {
    if (this.sending) return;
    this.remember();
    this.edit.mask.fill(0);
    this.count();
    this.soon();
  }

  say(text) {
    const line = this.root.querySelector("[data-say]");
    if (line) line.textContent = text;
  }

  async save() {
    if (this.sending) return;
    this.drawing = null;
    this.sending = true;
    const mask = this.edit.mask.slice();
    const one = this.slices[this.at];
    const canvas = document.createElement("canvas");
    canvas.width = one.width; canvas.height = one.height;
    const context = canvas.getContext("2d");
    const data = context.createImageData(one.width, one.height);
    for (let i = 0; i < mask.length; i++) {
      data.data[4 * i] = data.data[4 * i + 1] = data.data[4 * i + 2] = mask[i] ? 255 : 0;
      data.data[4 * i + 3] = 255;
    }
    context.putImageData(data, 0, 0);
    const body = await new Promise((done) => canvas.toBlob(done, "image/png"));
    await this.send("correction", body, mask);
  }

  async revert() {
    if (this.sending || !window.confirm(this.words.revert)) return;
    await this.send("revert", null, null);
  }

  async send(what, body, mask) {
    const at = this.at;
    this.sending = true;
    this.say(this.words.saving);
    for (const name of ["save", "cancel"]) if (this.controls[name]) this.controls[name].disabled = true;
    try {
      const answer = await fetch(`/slices/${this.slices[at].id}/${what}`, {
        method: "POST",
        headers: { "X-Form-Token": this.token, "X-Before": this.slices[at].address, Accept: "application/json", ...(body ? { "Content-Type": "image/png" } : {}) },
        body,
      });
      const told = await answer.json();
      if (answer.status === 409) await this.refresh(at);
      if (!answer.ok) throw new Error(told.error);
      this.slices[at] = told;
      if (mask) this.masks.set(at, mask); else { this.masks.delete(at); await this.load(at); }
      this.edit = null;
      this.mode(false);
      this.say(this.words.saved);
      await this.refresh();
    } catch (error) {
      this.say(error instanceof TypeError || !error.message ? this.words.failed : error.message);
    } finally {
      this.sending = false;
      for (const name of ["save", "cancel"]) if (this.controls[name]) this.controls[name].disabled = false;
    }
  }

  // Numbers beside the picture change with a correction: they are taken from the page anew.
  // After a conflict also the slice itself: what is drawn stays, and a second save replaces what is there now.
  async refresh(at = null) {
    const answer = await fetch(window.location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
      if (fresh) part.replaceChildren(...document.importNode(fresh, true).childNodes);
    }
    const data = page.querySelector(`#${this.root.id} > script`);
    if (at !== null && data) {
      const fresh = JSON.parse(data.textContent).slices.find((one) => one.id === this.slices[at].id);
      if (fresh) { this.slices[at] = fresh; this.masks.delete(at); await this.load(at); }
    }
    bindCharts();
    this.tell();
  }
}

function bindCharts() {
  for (const chart of document.querySelectorAll("[data-chart]")) {
    if (chart.dataset.bound) continue;
    chart.dataset.bound = "yes";
    chart.addEventListener("click", (event) => {
      const bar = event.target.closest("[data-index]");
      const viewer = viewers.get(chart.dataset.chart);
      if (!bar || !viewer) return;
      event.preventDefault();
      viewer.go(Number(bar.dataset.index));
      viewer.stage.focus({ preventScroll: true }); // so that the keys go on from there
    });
  }
}

for (const root of document.querySelectorAll(".viewer")) viewers.set(root.id, new Viewer(root));
bindCharts();

// Two dates side by side: one slider moves both, each to the same share of its slices.
const pair = [...viewers.values()].filter((viewer) => viewer.root.dataset.pair !== undefined);
if (pair.length === 2) {
  let following = false;
  for (const [index, viewer] of pair.entries()) {
    viewer.listeners.push((at) => {
      const other = pair[1 - index];
      if (following || !document.getElementById("together")?.checked) return;
      following = true;
      const share = viewer.slices.length > 1 ? at / (viewer.slices.length - 1) : 0;
      other.go(Math.round(share * (other.slices.length - 1)));
      following = false;
    });
  }
}

// The page's own behavior: pictures that are enlarged and moved, slices of a stack, and the place in the queue in words.
// It listens on the document, once, because every result replaces the one before.
() => {
  const shown = { layers: {}, opacity: "35" }; // what the visitor chose stays for the next result
  const FARTHEST = 8;

  // -- enlarging

  const views = new WeakMap();
  const viewOf = (frame) => views.get(frame) ?? views.set(frame, { scale: 1, x: 0, y: 0 }).get(frame);

  const draw = (frame) => {
    const view = viewOf(frame);
    const box = frame.getBoundingClientRect();
    view.scale = Math.min(Math.max(view.scale, 1), FARTHEST);
    view.x = Math.min(Math.max(view.x, box.width * (1 - view.scale)), 0);
    view.y = Math.min(Math.max(view.y, box.height * (1 - view.scale)), 0);
    frame.classList.toggle("enlarged", view.scale > 1);
    frame.style.setProperty("--zoom", `translate(${view.x}px, ${view.y}px) scale(${view.scale})`);
    frame.style.setProperty("--scale", view.scale);
  };

  const zoom = (frame, factor, at) => {
    const view = viewOf(frame);
    const box = frame.getBoundingClientRect();
    const x = at ? at.clientX - box.left : box.width / 2;
    const y = at ? at.clientY - box.top : box.height / 2;
    const scale = factor === 0 ? 1 : Math.min(Math.max(view.scale * factor, 1), FARTHEST);
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    draw(frame);
  };

  const move = (frame, x, y) => {
    const view = viewOf(frame);
    view.x += x;
    view.y += y;
    draw(frame);
  };

  const frameOf = (event) => event.target.closest?.(".viewer .window");

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-zoom]");
    if (button) zoom(frameOf(event), { in: 1.5, out: 1 / 1.5, fit: 0 }[button.dataset.zoom]);
  });
  document.addEventListener("dblclick", (event) => {
    const frame = frameOf(event);
    if (frame && !event.target.closest("button")) zoom(frame, viewOf(frame).scale > 1 ? 0 : 2.5, event);
  });
  document.addEventListener(
    "wheel",
    (event) => {
      const frame = frameOf(event);
      if (!frame || !event.ctrlKey) return; // without the key the page scrolls, as everywhere
      event.preventDefault();
      zoom(frame, Math.exp(-event.deltaY / 200), event);
    },
    { passive: false },
  );
  document.addEventListener("keydown", (event) => {
    const frame = event.target.matches?.(".viewer .window") ? event.target : null;
    if (!frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 40;
    const keys = {
      "+": () => zoom(frame, 1.5),
      "=": () => zoom(frame, 1.5),
      "-": () => zoom(frame, 1 / 1.5),
      0: () => zoom(frame, 0),
      ArrowLeft: () => move(frame, step, 0),
      ArrowRight: () => move(frame, -step, 0),
      ArrowUp: () => move(frame, 0, step),
      ArrowDown: () => move(frame, 0, -step),
    };
    if (!keys[event.key] || (event.key.startsWith("Arrow") && viewOf(frame).scale === 1)) return;
    event.preventDefault();
    keys[event.key]();
  });
  document.addEventListener("pointerdown", (event) => {
    const frame = frameOf(event);
    if (!frame || event.target.closest("button") || viewOf(frame).scale === 1) return;
    let last = event;
    const drag = (moved) => {
      move(frame, moved.clientX - last.clientX, moved.clientY - last.clientY);
      last = moved;
    };
    const end = () => {
      removeEventListener("pointermove", drag);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
    };
    addEventListener("pointermove", drag);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  });

  // -- layers, and the slices of a stack

  const apply = (viewer) => {
    viewer.querySelectorAll("[data-layer]").forEach((box) => {
      box.checked = shown.layers[box.dataset.layer] ?? box.checked;
    });
    const opacity = viewer.querySelector("[data-opacity]");
    if (opacity) opacity.value = shown.opacity;
    viewer.style.setProperty("--opacity", shown.opacity / 100);
  };

  const show = (viewer, number) => {
    const figures = [...viewer.querySelectorAll("figure")];
    number = Math.min(Math.max(number, 1), figures.length);
    figures.forEach((figure, i) => (figure.hidden = i !== number - 1));
    const caption = figures[number - 1].dataset.caption;
    const slider = viewer.querySelector("input.slice");
    slider.value = number;
    slider.setAttribute("aria-valuetext", caption);
    viewer.querySelectorAll(".bars rect").forEach((bar, i) => bar.classList.toggle("here", i === number - 1));
    viewer.querySelector("output").textContent = caption;
  };

  document.addEventListener("input", (event) => {
    const viewer = event.target.closest?.(".viewer");
    if (!viewer) return;
    if (event.target.matches("input.slice")) show(viewer, Number(event.target.value));
    if (event.target.dataset.layer) shown.layers[event.target.dataset.layer] = event.target.checked;
    if ("opacity" in event.target.dataset) shown.opacity = event.target.value;
    apply(viewer);
  });
  document.addEventListener("click", (event) => {
    const bars = event.target.closest?.(".viewer .bars");
    if (!bars) return;
    const box = bars.getBoundingClientRect();
    const count = bars.querySelectorAll("rect").length;
    show(bars.closest(".viewer"), Math.floor(((event.clientX - box.left) / box.width) * count) + 1);
  });

  // -- waiting

  // Gradio says "queue: 3/12 | 4.1/30.5s".
  const inWords = (text) => {
    const place = /queue: (\d+)\/(\d*)/.exec(text);
    const times = /([\d.]+)\/([\d.]+)s/.exec(text);
    if (!place) return "Analyzing";
    const left = times ? Math.max(1, Math.round(Number(times[2]) - Number(times[1]))) : null;
    const wait = left === null ? "" : `, about ${left < 90 ? `${left} s` : `${Math.round(left / 60)} min`} to wait`;
    return `Place ${place[1]} of ${place[2] || place[1]} in the queue${wait}`;
  };
  const result = document.getElementById("result");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let waits = false;
  // Who begins to wait sees the place, also on a phone, where it lies below the examples.
  const showPlace = (tracker) => {
    const place = tracker.getBoundingClientRect().top + 150;
    if (place > 0 && place + 80 < innerHeight) return;
    scrollTo({ top: scrollY + place - innerHeight / 2, behavior: calm.matches ? "auto" : "smooth" });
  };
  const look = () => {
    const text = result.querySelector(".progress-text");
    const tracker = text?.closest("[data-testid=status-tracker]");
    const said = text ? inWords(text.textContent) : "";
    if (tracker && tracker.dataset.said !== said) tracker.dataset.said = said;
    if (tracker && said.startsWith("Place") && !waits) showPlace(tracker);
    waits = said.startsWith("Place");
    const live = document.getElementById("waiting");
    // Each place once, not each second.
    const spoken = said.replace(/, about.*/, "");
    if (live && live.textContent !== spoken) live.textContent = spoken;
    result.querySelectorAll(".viewer:not([data-ready])").forEach((viewer) => {
      viewer.dataset.ready = "";
      apply(viewer);
    });
  };
  new MutationObserver(look).observe(result, { childList: true, subtree: true, characterData: true });
  look();
}

// Choosing files sends them: one click less. Shows how far the upload is.
"use strict";

const form = document.getElementById("upload");
if (form) {
  const drop = form.querySelector(".drop");
  const bar = form.querySelector("progress");
  const line = form.querySelector("[data-line]");
  const inputs = [...form.querySelectorAll('input[type="file"]')];

  const send = (files) => {
    if (!files.length) return;
    // Said before it is sent: a server that hangs up early can say nothing.
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    const refusal = files.length > Number(form.dataset.most) ? form.dataset.many
      : bytes > Number(form.dataset.limit) ? form.dataset.large : null;
    if (refusal) {
      for (const input of inputs) input.value = "";
      line.textContent = refusal;
      line.setAttribute("role", "alert");
      return;
    }
    const body = new FormData();
    for (const field of form.querySelectorAll("input:not([type=file])")) {
      if (field.type !== "checkbox" || field.checked) body.append(field.name, field.value);
    }
    for (const file of files) body.append("files", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("X-Form-Token", form.elements.token.value);
    request.setRequestHeader("Accept", "application/json");
    bar.hidden = false;
    drop.setAttribute("aria-busy", "true");
    for (const input of inputs) input.disabled = true;
    line.textContent = form.dataset.sending;
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) bar.value = event.loaded / event.total;
    });
    const fail = (text) => {
      bar.hidden = true;
      drop.removeAttribute("aria-busy");
      for (const input of inputs) { input.disabled = false; input.value = ""; }
      line.textContent = text || form.dataset.failed;
      line.setAttribute("role", "alert");
    };
    request.addEventListener("error", () => fail());
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy's page: the general sentence */ }
      if (request.status === 201) window.location = answer.page;
      else fail(answer.error);
    });
    request.send(body);
  };

  for (const input of inputs) input.addEventListener("change", () => send([...input.files]));
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const type of ["dragleave", "drop"]) {
    drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  drop.addEventListener("drop", async (event) => {
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [];
    const walk = async (entry) => {
      if (entry.isFile) files.push(await new Promise((done, fail) => entry.file(done, fail)));
      else {
        const reader = entry.createReader();
        for (;;) {
          const part = await new Promise((done, fail) => reader.readEntries(done, fail));
          if (!part.length) break;
          for (const one of part) await walk(one);
        }
      }
    };
    const dropped = [...event.dataTransfer.files];
    if (entries.length) for (const entry of entries) await walk(entry);
    else files.push(...dropped);
    send(files);
  });
}

// An examination at work: how far it is, and the result when it is there.
const work = document.getElementById("work");
if (work) {
  const bar = work.querySelector("progress");
  const line = work.querySelector("[data-line]");
  const look = async () => {
    try {
      const answer = await fetch(work.dataset.status, { headers: { Accept: "application/json" } });
      if (answer.status === 401 || answer.status === 404) { window.location.reload(); return; }
      const told = await answer.json();
      if (told.state === "done" || told.state === "failed") { window.location.reload(); return; }
      if (told.models === "failed") line.textContent = work.dataset.stopped;
      else if (told.models === "loading") line.textContent = work.dataset.loading;
      else if (told.state === "queued") line.textContent = work.dataset.queued;
      else line.textContent = work.dataset.running.replace("{done}", told.done).replace("{total}", told.total);
      if (told.state === "running" && told.total) bar.value = told.done / told.total;
    } catch { /* the server restarts: ask again */ }
    setTimeout(look, 800);
  };
  setTimeout(look, 400);
}

// Small helps on every page. All of it works without them too.
"use strict";

for (const form of document.querySelectorAll("form[data-ask]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.ask)) event.preventDefault();
  });
}
for (const choice of document.querySelectorAll("select[data-send]")) {
  choice.addEventListener("change", () => choice.form.requestSubmit());
}
// A form that was sent is not sent twice.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented) return;
  const button = event.submitter;
  setTimeout(() => {
    for (const one of event.target.querySelectorAll("button")) one.disabled = true;
    if (button) button.setAttribute("aria-busy", "true");
  });
});
// Back from the browser's memory: the buttons work again.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) for (const one of document.querySelectorAll("button[disabled]")) one.disabled = false;
});
// What was typed and not sent is not lost by a stray click.
for (const form of document.querySelectorAll("form[data-guard]")) {
  let changed = form.dataset.guard === "unsaved";
  form.addEventListener("input", () => { changed = true; });
  form.addEventListener("submit", () => { changed = false; });
  window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
}

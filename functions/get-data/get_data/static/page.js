// Nothing here is needed: the page is whole without it.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // only where the page came by TLS or from this machine
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// How long ago that was, while the page stays open.
const words = new Intl.RelativeTimeFormat("en", { numeric: "always" });
function tellSince(element) {
  const seconds = (Date.now() - Date.parse(element.dataset.since)) / 1000;
  const [size, unit] = [[86400, "day"], [3600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [];
  element.textContent = size ? words.format(-Math.floor(seconds / size), unit) : "just now";
}
setInterval(() => document.querySelectorAll("[data-since]").forEach(tellSince), 20_000);

// The counts of the run going on, until it has ended.
const running = document.querySelector("[data-run]");
async function follow() {
  let run;
  try {
    const answer = await fetch(`/runs/${running.dataset.run}`);
    run = answer.ok ? await answer.json() : null;
  } catch {
    run = null; // away for now
  }
  if (run?.state !== "running") {
    if (run) tellEnd(run);
    else setTimeout(follow, 10_000);
    return;
  }
  show(run);
  setTimeout(follow, 2000);
}
function show(run) {
  for (const count of running.querySelectorAll("[data-count]")) {
    count.textContent = run[count.dataset.count].toLocaleString("en");
  }
  const progress = running.querySelector("progress");
  if (progress.hasAttribute("value")) progress.value = Math.min(run.listed, progress.max);
}
function tellEnd(run) {
  show(run);
  running.querySelector("progress").remove();
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = "Show the new state";
  running.querySelector("[data-ended]").append(`It has ended: ${run.state}. `, link);
}
if (running) setTimeout(follow, 1000);

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

// The counts of the run going on, until it has ended.
const running = document.querySelector("[data-run]");
async function follow() {
  const answer = await fetch(`/runs/${running.dataset.run}`);
  if (!answer.ok) return;
  const run = await answer.json();
  for (const count of running.querySelectorAll("[data-count]")) {
    count.textContent = run[count.dataset.count].toLocaleString("en");
  }
  const progress = running.querySelector("progress");
  if (progress.hasAttribute("value")) progress.value = Math.min(run.listed, progress.max);
  if (run.state === "running") {
    setTimeout(follow, 2000);
  } else {
    progress.remove();
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Show the new state";
    running.querySelector("[data-ended]").append(`It has ended: ${run.state}. `, link);
  }
}
if (running) setTimeout(follow, 1000);

// Watch: the steps of the last generation.

import { ask, askPicture } from "./ask.js";
import { vaes } from "./options.js";
import { $, choose } from "./parts.js";
import { t } from "./texts.js";

let trace = null;
let seen = new Map();
let playing = null;
let latest = 0;

export async function showWatch() {
  stop();
  try {
    const now = await ask("/api/v1/trace");
    if (now.mark !== trace?.mark) { seen = new Map(); $("watch-step").value = 0; }
    trace = now;
  } catch (error) {
    trace = null;
    $("watch-problem").textContent = error.message;
  }
  $("watch-stage").hidden = !trace;
  for (const id of ["watch-step", "watch-play", "watch-vae"]) $(id).disabled = !trace;
  $("watch-file").hidden = !trace;
  if (!trace) return;
  $("watch-problem").textContent = "";
  const before = $("watch-vae").value;
  choose($("watch-vae"), [["linear", t("watch.linear")], ...vaes()], before || (vaes().includes(trace.vae) ? trace.vae : "linear"));
  $("watch-step").max = trace.steps.length - 1;
  $("watch-text").textContent = trace.text;
  await showStep();
}

async function looked(index, look, vae) {
  const path = `/api/v1/trace/${trace.mark}/${index}?look=${look}&vae=${encodeURIComponent(vae)}`;
  if (!seen.has(path)) seen.set(path, await askPicture(path));
  return seen.get(path);
}

async function showStep() {
  const index = Number($("watch-step").value);
  const step = trace.steps[index];
  const turn = ++latest;
  const at = { step: step.step + 1, count: trace.steps.filter((one) => one.pass === step.pass).length, sigma: step.sigma.toFixed(2) };
  $("watch-at").textContent = t(step.pass === "hires" ? "watch.at_hires" : "watch.at", at);
  try {
    for (const look of ["estimate", "latents", "channels"]) {
      const url = await looked(index, look, look === "channels" ? "linear" : $("watch-vae").value);
      if (turn !== latest) return;
      $(`watch-${look}`).src = url;
    }
    $("watch-problem").textContent = "";
  } catch (error) {
    stop();
    $("watch-problem").textContent = error.message;
  }
}

function stop() {
  clearTimeout(playing);
  playing = null;
  $("watch-play").textContent = t("watch.play");
}

async function play() {
  const slider = $("watch-step");
  if (slider.value === slider.max) slider.value = 0; else slider.value = Number(slider.value) + 1;
  await showStep();
  if (playing === null) return;
  if (slider.value === slider.max || $("watch").hidden) return stop();
  playing = setTimeout(play, 250);
}

$("watch-step").addEventListener("input", () => { stop(); showStep(); });
$("watch-vae").addEventListener("change", showStep);
$("watch-play").addEventListener("click", () => {
  if (playing !== null) return stop();
  playing = 0;
  $("watch-play").textContent = t("watch.pause");
  play();
});

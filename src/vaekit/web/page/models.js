// Models: what is on the disk, which VAE a checkpoint gets, downloads, extract and bake.

import { ask, remove } from "./ask.js";
import { findings } from "./lab.js";
import { afresh, tellVae } from "./options.js";
import { $, button, cell, choose, element, megabytes, named, table } from "./parts.js";
import { reason } from "./reasons.js";
import { t } from "./texts.js";

let models = [];
let watching = null;

const told = (work) => async (...given) => {
  $("models-problem").textContent = "";
  try { await work(...given); } catch (error) { $("models-problem").textContent = error.message; }
};

export const showModels = told(async () => {
  models = (await ask("/api/v1/models")).models;
  const vaes = models.filter((one) => one.kind === "vae");
  const checkpoints = models.filter((one) => one.kind === "checkpoint");
  drawCheckpoints(checkpoints, vaes);
  drawVaes(vaes);
  const broken = models.filter((one) => one.kind === "broken" || one.kind === "unfinished");
  $("models-broken-card").hidden = !broken.length;
  $("models-broken").replaceChildren(...broken.map((one) => element("li", { textContent: `${one.name}: ${reason(one.note)}` })));
  const form = $("bake").elements;
  choose(form.checkpoint, checkpoints.map((one) => one.name), form.checkpoint.value);
  choose(form.vae, vaes.map((one) => one.name), form.vae.value);
  const known = await ask("/api/v1/catalog");
  table($("catalog"), [["vae"], ["family"], ["size", "number"], [""]], known.map((one) => [
    cell(one.name), cell(one.family), cell(one.size ? megabytes(one.size) : "", { className: "number" }),
    cell(one.here ? element("span", { textContent: t("models.here") }) : fetched(one.name))]));
  await showErrands();
});

const size = (one) => cell(one.size > 1e5 ? megabytes(one.size) : "", { className: "number" });

function baked(one) {
  if (one.same_as.length) return cell(`= ${one.same_as[0]}`);
  return cell(element("span", { textContent: t(one.has_vae ? "models.baked.yes" : "models.baked.none") }));
}

function preference(one, vaes) {
  const fitting = vaes.filter((vae) => vae.family.some((name) => one.family.includes(name))).map((vae) => vae.name);
  const stored = one.preferred ?? "Automatic";
  const made = element("select", { translate: false, ariaLabel: t("models.preferred_of", { name: one.name }) });
  choose(made, [...new Set(["Automatic", "None", ...fitting, stored])], stored);
  made.addEventListener("change", told(async () => {
    try {
      await ask("/api/v1/preference", { checkpoint: one.name, vae: made.value });
    } catch (error) {
      made.value = stored;
      throw error;
    }
    await tellVae();
  }));
  return cell(made);
}

function drawCheckpoints(checkpoints, vaes) {
  table($("models-checkpoints"), [["checkpoint"], ["family"], ["size", "number"], ["models.baked"], ["models.preferred"], [""]],
    checkpoints.map((one) => [
      cell(one.name), cell(one.family.join(", ")), size(one), baked(one), preference(one, vaes),
      cell(one.has_vae ? button("models.extract", told(() => errand("extract", { checkpoint: one.name })), { className: "small" }) : "")]));
}

function drawVaes(vaes) {
  table($("models-vaes"), [["vae"], ["family"], ["models.network"], ["models.dtype"], ["size", "number"], ["models.same"], ["models.where"], [""]],
    vaes.map((one) => [
      cell(one.name), cell(one.family.join(", ")), cell(one.network), cell(one.dtypes.join(", ")),
      size(one), cell(one.same_as.join(", ")), cell(reason(one.program)),
      cell(button("models.examine", told(() => examine(one.name)), { className: "small" }))]));
}

async function examine(vae) {
  const found = await ask("/api/v1/doctor", { vae });
  $("models-findings").replaceChildren(element("li", { textContent: vae }), ...findings(found));
  $("models-examined").hidden = false;
  $("models-examined").scrollIntoView({ block: "nearest" });
}

const fetched = (target) => button("models.fetch", told(() => errand("pull", { target })), { className: "small" });

// What takes long

async function errand(kind, wish) {
  await ask(`/api/v1/${kind}`, wish);
  watching = 0;
  await showErrands();
  $("errands").scrollIntoView({ block: "nearest" });
}

async function showErrands() {
  clearTimeout(watching);
  const all = await ask("/api/v1/errands");
  const running = all.some((one) => ["waiting", "running"].includes(one.state));
  $("errands").replaceChildren(...all.slice(0, 5).map(drawErrand));
  if (running && !$("models").hidden) watching = setTimeout(told(showErrands), 500);
  if (!running && watching !== null) { watching = null; await afresh(); await showModels(); }
}

function drawErrand(one) {
  const bar = element("progress", one.total ? { max: one.total, value: one.done } : {});
  const on = ["waiting", "running"].includes(one.state);
  bar.ariaLabel = one.what;
  const line = element("span", {}, t(`errand.${one.kind}`), " ", named("b", one.what), " · ", t(`errand.${one.state}`),
    named("span", one.told ? `: ${one.state === "failed" ? reason(one.told) : one.told}` : "", { className: one.state === "failed" ? "bad" : "" }));
  const stop = button("errand.stop", told(async () => { await remove(`/api/v1/errands/${one.id}`); await showErrands(); }), { className: "small" });
  return element("div", { className: "card errand" }, line, on ? stop : "", on ? bar : "");
}

$("models-refresh").addEventListener("click", told(async () => { await afresh(); await showModels(); }));
$("models-read").addEventListener("click", told(async () => {
  $("models-read").disabled = true;
  try { await ask("/api/v1/fingerprints", {}); } finally { $("models-read").disabled = false; }
  await showModels();
}));
$("bake").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target.elements;
  told(() => errand("bake", { checkpoint: form.checkpoint.value, vae: form.vae.value, name: form.name.value }))();
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  told(async () => {
    const go = event.submitter ?? event.target.querySelector("button");
    go.disabled = true;
    try {
      const hits = await ask(`/api/v1/search?words=${encodeURIComponent(event.target.elements.words.value)}`);
      table($("found"), [["vae"], ["family"], ["size", "number"], ["models.downloads", "number"], ["models.licence"], [""]], hits.map((one) => [
        cell(element("a", { href: one.page, target: "_blank", rel: "noreferrer noopener", textContent: one.name, translate: false })),
        cell(one.family ?? one.base), cell(one.size ? megabytes(one.size) : "", { className: "number" }),
        cell(one.downloads, { className: "number" }), cell(one.licence), cell(fetched(one.target))]));
      if (!hits.length) $("models-problem").textContent = t("models.search.nothing");
    } finally {
      go.disabled = false;
    }
  })();
});

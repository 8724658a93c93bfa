// The options: the top bar, and the tab Settings.

import { ask } from "./ask.js";
import { $, choose, element, named } from "./parts.js";
import { reason } from "./reasons.js";
import { t } from "./texts.js";

export let options = [];
const OF_FILES = ["sd_vae", "sd_model_checkpoint"];
const GROUPS = {
  model: ["sd_model_checkpoint"],
  vae: ["sd_vae", "sd_vae_overrides_per_model_preferences", "sd_vae_checkpoint_cache", "sd_vae_encode_method", "sd_vae_decode_method", "vae_memory_budget", "auto_vae_precision", "auto_vae_precision_bfloat16"],
  previews: ["live_previews_enable", "show_progress_every_n_steps"],
  kept: ["latent_history", "trace_last_generation"],
  interface: ["quicksettings_list"],
};

export async function readOptions() {
  options = await ask("/api/v1/settings");
}

export const option = (name) => options.find((one) => one.name === name);

export const vaes = () => option("sd_vae").choices.slice(2);

function control(one) {
  if (one.type === "boolean") return element("input", { type: "checkbox", checked: one.value });
  if (!one.choices) {
    const made = element("input", { type: one.type === "integer" ? "number" : "text", value: one.value });
    if (one.minimum != null) made.min = one.minimum;
    if (one.maximum != null) made.max = one.maximum;
    return made;
  }
  const made = element("select", { multiple: one.type === "array", translate: false });
  const chosen = [].concat(one.value);
  const all = [...chosen.filter((name) => !one.choices.includes(name)), ...one.choices];
  choose(made, all.map((name) => [name, name || t("option.first", { name: one.choices[0] ?? "–" })]), chosen);
  if (made.multiple) made.size = all.length;
  return made;
}

function valueOf(made, one) {
  if (one.type === "boolean") return made.checked;
  if (one.type === "integer") return made.value === "" ? made.value : Number(made.value);
  if (!made.multiple) return made.value;
  const now = [...made.selectedOptions].map((each) => each.value);
  return [...one.value.filter((name) => now.includes(name)), ...now.filter((name) => !one.value.includes(name))];
}

function labelled(one, made, place) {
  made.id = `${place}-${one.name}`;
  const label = element("label", { htmlFor: made.id, textContent: t(`option.${one.name}`) });
  const box = element("div", { className: "option" });
  if (one.type === "boolean") { label.prepend(made); box.append(label); } else box.append(label, made);
  if (OF_FILES.includes(one.name)) besideIt(made, again(t(`option.${one.name}`)));
  return box;
}

// A button that looks for new files, beside what lists them.
function again(what) {
  const title = t("refresh", { what });
  const made = element("button", { type: "button", className: "again", textContent: "↻", translate: false, title });
  made.ariaLabel = title;
  made.addEventListener("click", async () => {
    try {
      await afresh();
      document.dispatchEvent(new Event("refreshed"));
    } catch (error) {
      tell(error.message, true);
    }
  });
  return made;
}

function besideIt(made, button) {
  const row = element("div", { className: "with-button" });
  made.replaceWith(row);
  row.append(made, button);
}

export function drawRefresh() {
  for (const label of document.querySelectorAll("[data-refresh]")) {
    label.parentElement.querySelector(":scope > .again")?.remove();
    const made = again(label.querySelector("span").textContent);
    if (label.parentElement.classList.contains("with-button")) label.after(made); else besideIt(label, made);
  }
}

export function drawQuick() {
  $("quick").replaceChildren(...option("quicksettings_list").value.map((name) => {
    const one = option(name);
    const made = control(one);
    made.addEventListener("change", () => change(name, valueOf(made, one)));
    return labelled(one, made, "quick");
  }));
}

async function change(name, value) {
  try {
    await ask("/sdapi/v1/options", { [name]: value });
    await readOptions();
    drawSettings();
    await tellVae();
  } catch (error) {
    await readOptions();
    drawQuick();
    tell(error.message, true);
  }
}

// What is on the disk now.
export async function afresh() {
  await ask("/sdapi/v1/refresh-vae", {});
  await readOptions();
  drawQuick();
  await tellVae();
}

export function drawSettings() {
  $("options").replaceChildren(...Object.entries(GROUPS).map(([group, names]) =>
    element("fieldset", {}, element("legend", { textContent: t(`settings.${group}`) }), ...names.map((name) => {
      const one = option(name);
      const made = control(one);
      const box = labelled(one, made, "set");
      const hint = element("p", { className: "hint", id: `hint-${name}` }, t(`hint.${name}`), " ", named("code", name));
      made.setAttribute("aria-describedby", hint.id);
      box.append(hint);
      return box;
    }))));
}

function tell(text, bad) {
  $("vae-line").textContent = text;
  $("vae-line").classList.toggle("bad", bad);
  if (bad) $("vae-passed").replaceChildren();
}

// Which VAE is in use, and why.
export function tellResolution(found) {
  const name = found.source === "baked" && found.known ? `${found.name} (${found.known})` : found.name;
  tell(`VAE: ${found.choice} → ${name}: ${reason(found.reason)}`, false);
  $("vae-passed").replaceChildren(...found.passed_over.map((one) => element("li", { textContent: `${t(`rule.${one.rule}`)}: ${reason(one.reason)}` })));
}

export async function tellVae() {
  try {
    const found = await ask("/api/v1/vae");
    tellResolution(found);
    $("bundled-only").hidden = !found.only_bundled;
  } catch (error) {
    tell(error.message, true);
  }
}

// Options of A1111

$("take-over").addEventListener("change", async () => {
  const [file] = $("take-over").files;
  if (!file) return;
  $("imported").replaceChildren();
  try {
    let config;
    try { config = JSON.parse(await file.text()); } catch (error) { throw new Error(t("import.broken", { reason: error.message })); }
    const found = await ask("/api/v1/import", config);
    await readOptions();
    drawQuick();
    drawSettings();
    await tellVae();
    tellImported(found);
  } catch (error) {
    $("imported").replaceChildren(named("p", error.message, { className: "problem" }));
  } finally {
    $("take-over").value = "";
  }
});

function tellImported({ taken, refused, ignored }) {
  const line = (tag, text) => element(tag, { textContent: text });
  const told = [line("p", t("import.taken", { names: Object.keys(taken).join(", ") || t("import.none") }))];
  const reasons = Object.entries(refused).map(([name, why]) => named("li", `${name}: ${reason(why)}`));
  if (reasons.length) told.push(line("p", t("import.refused")), element("ul", {}, ...reasons));
  if (ignored.length) told.push(line("p", t("import.ignored", { count: ignored.length, names: ignored.join(", ") })));
  $("imported").replaceChildren(...told);
}

$("apply").addEventListener("click", async () => {
  const changed = {};
  for (const one of options) {
    const value = valueOf($(`set-${one.name}`), one);
    if (JSON.stringify(value) !== JSON.stringify(one.value)) changed[one.name] = value;
  }
  const names = Object.keys(changed);
  const told = $("applied");
  told.translate = true;
  try {
    if (names.length) await ask("/sdapi/v1/options", changed);
    await readOptions();
    told.textContent = names.length ? t("settings.changed", { count: names.length, names: names.join(", ") }) : t("settings.unchanged");
    await tellVae();
  } catch (error) {
    told.translate = false;
    told.textContent = error.message;
  }
  told.classList.toggle("bad", !told.translate);
});
$("reload").addEventListener("click", () => location.reload());

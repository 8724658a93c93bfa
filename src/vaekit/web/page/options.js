// The options: the top bar, and the tab Settings.

import { ask } from "./ask.js";
import { $, choose, element, named } from "./parts.js";
import { t } from "./texts.js";

export let options = [];
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
  return box;
}

export function drawQuick() {
  $("quick").replaceChildren(...option("quicksettings_list").value.map((name) => {
    const one = option(name);
    const made = control(one);
    const box = labelled(one, made, "quick");
    made.addEventListener("change", () => change(name, valueOf(made, one)));
    if (["sd_vae", "sd_model_checkpoint"].includes(name)) {
      const again = element("button", { type: "button", textContent: "↻", translate: false, title: t("refresh", { what: t(`option.${name}`) }) });
      again.ariaLabel = again.title;
      again.addEventListener("click", () => afresh().catch((error) => tell(error.message, true)));
      const row = element("div", { className: "with-button" });
      made.replaceWith(row);
      row.append(made, again);
    }
    return box;
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
  const why = t(`why.${found.source}`, { reason: found.reason, family: found.families.join(", ") });
  tell(`VAE: ${found.choice} → ${found.name}: ${why}`, false);
  $("vae-passed").replaceChildren(...found.passed_over.map((one) => element("li", { textContent: `${one.rule}: ${one.reason}` })));
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

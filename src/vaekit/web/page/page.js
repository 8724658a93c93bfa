"use strict";
// The page talks to the same API as everybody else; nothing here decides anything.

const $ = (id) => document.getElementById(id);
let mode = "txt2img";
let options = [];

async function ask(path, body) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, request);
  const told = await answer.json().catch(() => null);
  if (!answer.ok) {
    const detail = told && told.detail;
    const text = Array.isArray(detail) ? detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ") : detail;
    throw new Error(text || `the server answered ${answer.status}`);
  }
  return told;
}

function element(tag, attributes = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...inside);
  return made;
}

// Options

function control(option) {
  let made;
  if (option.type === "boolean") {
    made = element("input", { type: "checkbox", checked: option.value });
  } else if (option.choices) {
    made = element("select", { multiple: option.type === "array" });
    const chosen = [].concat(option.value);
    const all = [...chosen.filter((one) => !option.choices.includes(one)), ...option.choices];
    if (made.multiple) all.sort((a, b) => (chosen.indexOf(a) + 1 || 99) - (chosen.indexOf(b) + 1 || 99));
    for (const one of all) made.append(element("option", { value: one, textContent: one || "(bundled, else the first)", selected: chosen.includes(one) }));
    if (made.multiple) made.size = all.length;
  } else {
    made = element("input", { type: option.type === "integer" ? "number" : "text", value: option.value });
    if (option.minimum != null) made.min = option.minimum;
    if (option.maximum != null) made.max = option.maximum;
  }
  made.dataset.option = option.name;
  return made;
}

function valueOf(made, option) {
  if (option.type === "boolean") return made.checked;
  if (option.type === "integer") return Number(made.value);
  if (!made.multiple) return made.value;
  const now = [...made.selectedOptions].map((one) => one.value);
  return [...option.value.filter((one) => now.includes(one)), ...now.filter((one) => !option.value.includes(one))];
}

function labelled(option, made, place) {
  made.id = `${place}-${option.name}`;
  const label = element("label", { htmlFor: made.id, textContent: option.title });
  const box = element("div", { className: "option" });
  if (option.type === "boolean") { label.prepend(made); box.append(label); } else box.append(label, made);
  return box;
}

async function readOptions() {
  options = await ask("/api/v1/settings");
}

function drawQuick() {
  const quick = $("quick");
  quick.replaceChildren();
  const listed = options.find((one) => one.name === "quicksettings_list").value;
  for (const name of listed) {
    const option = options.find((one) => one.name === name);
    const made = control(option);
    const box = labelled(option, made, "quick");
    made.addEventListener("change", async () => {
      try {
        await ask("/sdapi/v1/options", { [name]: valueOf(made, option) });
        await readOptions();
        drawSettings();
        await tellVae();
      } catch (error) {
        await readOptions();
        drawQuick();
        tell(error.message, true);
      }
    });
    if (name === "sd_vae" || name === "sd_model_checkpoint") {
      const again = element("button", { type: "button", textContent: "↻", title: `Refresh: ${option.title}` });
      again.setAttribute("aria-label", again.title);
      again.addEventListener("click", async () => {
        await ask("/sdapi/v1/refresh-vae", {});
        await readOptions();
        drawQuick();
        await tellVae();
      });
      const row = element("div", { className: "with-button" });
      made.replaceWith(row);
      row.append(made, again);
    }
    quick.append(box);
  }
}

function drawSettings() {
  $("options").replaceChildren(...options.map((option) => {
    const made = control(option);
    const box = labelled(option, made, "set");
    const hint = element("p", { className: "hint", id: `hint-${option.name}`, textContent: `${option.description} (${option.name})` });
    made.setAttribute("aria-describedby", hint.id);
    box.append(hint);
    return box;
  }));
}

function tell(text, bad) {
  $("vae-line").textContent = text;
  $("vae-line").classList.toggle("bad", bad);
}

async function tellVae() {
  try {
    tell(`VAE: ${(await ask("/api/v1/vae")).line}`, false);
  } catch (error) {
    tell(error.message, true);
  }
}

$("apply").addEventListener("click", async () => {
  const changed = {};
  for (const option of options) {
    const value = valueOf($(`set-${option.name}`), option);
    if (JSON.stringify(value) !== JSON.stringify(option.value)) changed[option.name] = value;
  }
  const names = Object.keys(changed);
  try {
    if (names.length) await ask("/sdapi/v1/options", changed);
    await readOptions();
    $("applied").textContent = names.length ? `${names.length} changed: ${names.join(", ")}` : "nothing was changed";
    await tellVae();
  } catch (error) {
    $("applied").textContent = error.message;
  }
});
$("reload").addEventListener("click", () => location.reload());

// Tabs

function show(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
  }
  $("settings").hidden = name !== "settings";
  $("lab").hidden = name !== "lab";
  $("draw").hidden = name === "settings" || name === "lab";
  if (!$("draw").hidden) {
    mode = name;
    $("draw").setAttribute("aria-labelledby", `tab-${name}`);
    document.querySelector(".only-img2img").hidden = name !== "img2img";
  } else if (name === "settings") drawSettings();
  else drawLab();
}
const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => show(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
});

// Drawing

const read64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});
let begin = null;

function beginWith(url) {
  begin = url;
  $("begin").src = url;
  $("begin").hidden = false;
}
$("wish").elements.picture.addEventListener("change", async (event) => {
  if (event.target.files[0]) beginWith(await read64(event.target.files[0]));
});

async function wish() {
  const form = $("wish").elements;
  const asked = { save_images: false };
  for (const name of ["prompt", "negative_prompt", "sampler_name", "scheduler"]) asked[name] = form[name].value;
  for (const name of ["steps", "cfg_scale", "seed", "batch_size", "n_iter", "width", "height"]) {
    if (form[name].value !== "") asked[name] = Number(form[name].value);
  }
  if (mode === "img2img") {
    if (!begin) throw new Error("choose a picture to begin with");
    asked.init_images = [begin];
    asked.denoising_strength = Number(form.denoising_strength.value);
    asked.mask_blur = Number(form.mask_blur.value);
    if (form.mask.files[0]) asked.mask = await read64(form.mask.files[0]);
  }
  return asked;
}

async function watch(state) {
  while (state.on) {
    const now = await ask("/sdapi/v1/progress").catch(() => null);
    if (now && state.on) {
      $("bar").value = now.progress;
      const left = now.eta_relative ? `, ${Math.ceil(now.eta_relative)} s left` : "";
      $("eta").textContent = `${Math.round(now.progress * 100)} %${left}${now.textinfo ? ` (${now.textinfo})` : ""}`;
      if (now.current_image) {
        $("preview").src = `data:image/png;base64,${now.current_image}`;
        $("preview").hidden = false;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

function doing(on) {
  $("doing").hidden = !on;
  $("generate").disabled = on;
  $("interrupt").disabled = $("skip").disabled = !on;
  if (on) { $("bar").value = 0; $("eta").textContent = ""; $("preview").hidden = true; }
}

$("wish").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("generate").disabled) return;
  $("problem").textContent = "";
  const state = { on: true };
  doing(true);
  watch(state);
  try {
    const way = mode;
    const answer = await ask(`/sdapi/v1/${way}`, await wish());
    const info = JSON.parse(answer.info);
    const figures = answer.images.map((one, index) => picture(`data:image/png;base64,${one}`, info, index));
    $("gallery").replaceChildren(...figures);
    if (!figures.length) $("problem").textContent = "stopped before there was a picture";
    const found = info.vae_resolution;
    tell(`VAE: ${found.choice} → ${found.name}: ${found.reason}`, false);
  } catch (error) {
    $("problem").textContent = error.message;
  } finally {
    state.on = false;
    doing(false);
  }
});

function picture(url, info, index) {
  const seed = info.all_seeds[index];
  const link = element("a", { href: url, download: `vaekit-${seed}.png`, textContent: "Download" });
  const send = element("button", { type: "button", textContent: "Send to img2img" });
  send.addEventListener("click", () => { beginWith(url); show("img2img"); $("tab-img2img").focus(); });
  const same = element("button", { type: "button", textContent: "Use this seed" });
  same.addEventListener("click", () => { $("wish").elements.seed.value = seed; });
  return element("figure", {},
    element("img", { src: url, alt: `Drawn by the prompt: ${info.prompt || "(none)"}, seed ${seed}` }),
    element("figcaption", { textContent: info.infotexts[index] }),
    element("div", { className: "buttons" }, link, send, same));
}

for (const name of ["interrupt", "skip"]) {
  $(name).addEventListener("click", () => ask(`/sdapi/v1/${name}`, {}).catch((error) => { $("problem").textContent = error.message; }));
}
// VAE lab

let shown = {};

function drawLab() {
  const known = options.find((one) => one.name === "sd_vae").choices.slice(2);
  const before = [...$("lab-vaes").selectedOptions].map((one) => one.value);
  const chosen = before.length ? before : known.slice(0, 2);
  $("lab-vaes").replaceChildren(...known.map((one) => element("option", { value: one, textContent: one, selected: chosen.includes(one) })));
}

function divide() {
  $("lab-under").src = shown[$("lab-right").value];
  $("lab-over").src = shown[$("lab-left").value];
  $("lab-under").alt = $("lab-right").value;
  $("lab-over").alt = $("lab-left").value;
  $("lab-over").style.clipPath = `inset(0 ${100 - $("lab-divide").value}% 0 0)`;
}
for (const id of ["lab-left", "lab-right", "lab-divide"]) $(id).addEventListener("input", divide);

const MEASURES = { psnr: "PSNR, dB", ssim: "SSIM", ciede2000: "CIEDE2000" };

function drawLabResult(told, examined) {
  shown = { "the original": `data:image/png;base64,${told.original}` };
  for (const one of told.results) shown[one.vae] = `data:image/png;base64,${one.image}`;
  const names = Object.keys(shown);
  for (const [id, at] of [["lab-left", 0], ["lab-right", 1]]) {
    $(id).replaceChildren(...names.map((one, index) => element("option", { value: one, textContent: one, selected: index === at })));
  }
  const keys = Object.keys(MEASURES).filter((key) => told.results.some((one) => one[key] != null));
  const row = (tag, cells) => element("tr", {}, ...cells.map((text) => element(tag, { textContent: text })));
  $("lab-table").replaceChildren(row("th", ["VAE", ...keys.map((key) => MEASURES[key]), "Look"]),
    ...told.results.map((one) => row("td", [one.vae, ...keys.map((key) => (one[key] == null ? "" : one[key].toFixed(3))), one.look])));
  const faults = examined.findings.map((one) => element("li", { textContent: [one.what, one.where, one.advice].filter(Boolean).join("; ") }));
  $("lab-diagnosis").replaceChildren(...(faults.length ? faults : [element("li", { textContent: "none of the known faults" })]));
  $("lab-channels").src = `data:image/png;base64,${told.channels}`;
  $("lab-of").textContent = `encoded by ${told.channels_of}`;
  $("lab-result").hidden = false;
  divide();
}

$("lab-wish").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("lab-problem").textContent = "";
  $("lab-go").disabled = true;
  try {
    const image = await read64($("lab-picture").files[0]);
    const vaes = [...$("lab-vaes").selectedOptions].map((one) => one.value);
    drawLabResult(await ask("/api/v1/compare", { image, vaes }), await ask("/api/v1/doctor", { image }));
  } catch (error) {
    $("lab-problem").textContent = error.message;
  } finally {
    $("lab-go").disabled = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("draw").hidden) $("wish").requestSubmit();
});

(async () => {
  try {
    const [samplers, schedulers] = await Promise.all([ask("/sdapi/v1/samplers"), ask("/sdapi/v1/schedulers"), readOptions()]);
    const form = $("wish").elements;
    form.sampler_name.append(...samplers.map((one) => element("option", { value: one.name, textContent: one.name })));
    form.sampler_name.value = "DPM++ 2M";
    form.scheduler.append(...schedulers.map((one) => element("option", { value: one.label, textContent: one.label })));
    drawQuick();
    drawSettings();
    await tellVae();
  } catch (error) {
    tell(error.message, true);
  }
})();

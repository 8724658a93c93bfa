// txt2img and img2img.

import { ask } from "./ask.js";
import { tellResolution } from "./options.js";
import { $, button, choose, element, enlarge, named, png, read64 } from "./parts.js";
import { t } from "./texts.js";

const form = $("wish").elements;
let mode = "txt2img";
let begin = null;
let painted = false;

export function setMode(name) {
  mode = name;
  document.querySelector(".only-img2img").hidden = name !== "img2img";
}

export async function fillDraw() {
  const [samplers, schedulers] = await Promise.all([ask("/sdapi/v1/samplers"), ask("/sdapi/v1/schedulers")]);
  choose(form.sampler_name, samplers.map((one) => one.name), "DPM++ 2M");
  choose(form.scheduler, schedulers.map((one) => one.label), "Automatic");
}

// The picture to begin with, and the mask painted on it

const brush = $("brush").getContext("2d");

export function beginWith(url) {
  begin = url;
  $("begin").hidden = $("begin-tools").hidden = !url;
  if (url) $("begin").querySelector("img").src = url;
  showMask();
}
$("begin").querySelector("img").addEventListener("load", (event) => {
  $("brush").width = event.target.naturalWidth;
  $("brush").height = event.target.naturalHeight;
  clear();
});

function clear() {
  brush.clearRect(0, 0, $("brush").width, $("brush").height);
  painted = false;
  showMask();
}

function showMask() {
  const masked = painted || form.mask.files.length;
  for (const one of document.querySelectorAll(".of-mask")) one.hidden = !masked;
}

let last = null;
function paint(event) {
  if (event.type === "pointerdown") { last = null; $("brush").setPointerCapture(event.pointerId); }
  if (!event.buttons) return;
  const place = $("brush").getBoundingClientRect();
  const scale = $("brush").width / place.width;
  const point = [(event.clientX - place.left) * scale, (event.clientY - place.top) * scale];
  brush.lineWidth = $("brush-size").value * scale * 0.5;
  brush.lineCap = brush.lineJoin = "round";
  brush.strokeStyle = "#ff7a1a";
  brush.beginPath();
  brush.moveTo(...(last ?? point));
  brush.lineTo(...point);
  brush.stroke();
  last = point;
  painted = true;
  showMask();
}
for (const kind of ["pointerdown", "pointermove"]) $("brush").addEventListener(kind, paint);

// White where it was painted, black elsewhere.
function paintedMask() {
  const made = element("canvas", { width: $("brush").width, height: $("brush").height });
  const pen = made.getContext("2d");
  pen.drawImage($("brush"), 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, made.width, made.height);
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, made.width, made.height);
  return made.toDataURL("image/png");
}

form.picture.addEventListener("change", async () => {
  if (form.picture.files[0]) beginWith(await read64(form.picture.files[0]));
});
form.mask.addEventListener("change", showMask);
$("mask-clear").addEventListener("click", () => { form.mask.value = ""; clear(); });
$("begin-clear").addEventListener("click", () => { form.picture.value = form.mask.value = ""; clear(); beginWith(null); });
$("seed-random").addEventListener("click", () => { form.seed.value = -1; });

async function wish() {
  const asked = { save_images: false };
  for (const name of ["prompt", "negative_prompt", "sampler_name", "scheduler"]) asked[name] = form[name].value;
  const numbers = ["steps", "cfg_scale", "seed", "batch_size", "n_iter", "width", "height"];
  if (mode === "img2img") {
    if (!begin) throw new Error(t("error.no_picture"));
    asked.init_images = [begin];
    numbers.push("denoising_strength", "resize_mode");
    if (form.mask.files[0]) asked.mask = await read64(form.mask.files[0]);
    else if (painted) asked.mask = paintedMask();
    if (asked.mask) {
      numbers.push("mask_blur", "inpainting_fill", "inpaint_full_res_padding");
      for (const name of ["inpaint_full_res", "inpainting_mask_invert"]) asked[name] = form[name].value === "1";
    }
  }
  for (const name of numbers) if (form[name].value !== "") asked[name] = Number(form[name].value);
  return asked;
}

// While it is drawn

function watch() {
  const source = new EventSource("/api/v1/events");
  source.addEventListener("progress", (event) => {
    const now = JSON.parse(event.data);
    $("bar").value = now.progress;
    const told = [`${Math.round(now.progress * 100)} %`];
    if (now.steps) told.push(t("doing.step", now));
    if (now.eta) told.push(t("doing.left", { seconds: Math.ceil(now.eta) }));
    if (now.pending > 1) told.push(t("doing.waiting", { count: now.pending - 1 }));
    $("eta").textContent = told.join(" · ");
  });
  source.addEventListener("preview", (event) => {
    $("preview").src = png(JSON.parse(event.data).image);
    $("preview").hidden = false;
  });
  return source;
}

function doing(on) {
  $("doing").hidden = !on;
  $("generate").disabled = on;
  $("interrupt").disabled = $("skip").disabled = !on;
  if (!on) return;
  $("bar").value = 0;
  $("eta").textContent = t("doing.begins");
  $("preview").hidden = $("empty").hidden = true;
  if ($("result").getBoundingClientRect().top > innerHeight - 100) $("result").scrollIntoView({ block: "start", behavior: "smooth" });
}

$("wish").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("generate").disabled) return;
  $("problem").textContent = "";
  doing(true);
  const source = watch();
  try {
    const answer = await ask(`/sdapi/v1/${mode}`, await wish());
    const info = JSON.parse(answer.info);
    $("gallery").replaceChildren(...answer.images.map((one, index) => picture(png(one), info, index)));
    if (!answer.images.length) $("problem").textContent = t("doing.stopped");
    tellResolution(info.vae_resolution);
  } catch (error) {
    $("problem").textContent = error.message;
  } finally {
    source.close();
    doing(false);
  }
});

function picture(url, info, index) {
  const seed = info.all_seeds[index];
  const alt = t("drawn", { prompt: info.prompt || "–", seed });
  const shown = element("img", { src: url, alt, translate: false });
  shown.addEventListener("click", () => enlarge(url, info.infotexts[index]));
  const send = (to) => document.dispatchEvent(new CustomEvent("send", { detail: { url, to } }));
  return element("figure", { role: "listitem" }, shown,
    element("div", { className: "buttons" },
      element("a", { className: "button", href: url, download: `vaekit-${seed}.png`, textContent: t("download") }),
      button("send.img2img", () => send("img2img")),
      button("send.lab", () => send("lab")),
      button("seed.use", () => { form.seed.value = seed; })),
    named("figcaption", info.infotexts[index]));
}

for (const name of ["interrupt", "skip"]) {
  $(name).addEventListener("click", () => ask(`/sdapi/v1/${name}`, {}).catch((error) => { $("problem").textContent = error.message; }));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("draw").hidden) $("wish").requestSubmit();
});

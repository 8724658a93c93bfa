// VAE lab: there and back, and what is in latents.

import { ask, askPicture } from "./ask.js";
import { vaes } from "./options.js";
import { $, cell, choose, divided, element, enlarge, framed, named, png, read64, table } from "./parts.js";
import { reason } from "./reasons.js";
import { t } from "./texts.js";

let sent = null;

export function showLab() {
  const known = vaes();
  const before = [...$("lab-vaes").selectedOptions].map((one) => one.value);
  choose($("lab-vaes"), known, before.length ? before : known.slice(0, 2));
  choose($("lab-decode-vae"), known, $("lab-decode-vae").value || known[0]);
}

export async function sendToLab(url) {
  sent = url;
  $("lab-picture").value = "";
  showLab();
  $("lab-wish").requestSubmit();
}
$("lab-picture").addEventListener("change", () => { sent = null; });

const MEASURES = { psnr: 2, ssim: 4, ciede2000: 3 };

function drawMeasures(results) {
  const keys = Object.keys(MEASURES).filter((key) => results.some((one) => one[key] != null));
  table($("lab-table"), [["vae"], ...keys.map((key) => [`measure.${key}`, "number"]), ["measure.look"]], results.map((one) => [
    cell(one.vae), ...keys.map((key) => cell(one[key]?.toFixed(MEASURES[key]), { className: "number" })), cell(reason(one.look))]));
}

export const findings = (examined) => (examined.findings.length
  ? examined.findings.map((one) => element("li", { textContent: [one.what, one.where, one.advice].filter(Boolean).map(reason).join("; ") }))
  : [element("li", { textContent: t("lab.no_faults"), translate: true })]);

function drawChannels(latents, key) {
  const [width, height] = latents.cells;
  $("lab-of").textContent = t(key, { ...latents, width, height });
  $("lab-channels").replaceChildren(...latents.channels.map((one, number) => {
    const told = t("lab.channel", { number, ...one });
    const made = element("button", { type: "button", title: t("lab.enlarge") }, element("img", { src: png(one.image), alt: "" }), told);
    made.addEventListener("click", () => enlarge(png(one.image), told, true));
    return made;
  }));
}

async function working(id, work) {
  $("lab-problem").textContent = "";
  $(id).disabled = true;
  try {
    await work();
    $("lab-result").hidden = false;
  } catch (error) {
    $("lab-problem").textContent = error.message;
  } finally {
    $(id).disabled = false;
  }
}

$("lab-wish").addEventListener("submit", (event) => {
  event.preventDefault();
  working("lab-go", async () => {
    const file = $("lab-picture").files[0];
    if (!file && !sent) throw new Error(t("error.no_lab_picture"));
    const image = file ? await read64(file) : sent;
    const told = await ask("/api/v1/compare", { image, vaes: [...$("lab-vaes").selectedOptions].map((one) => one.value) });
    const examined = await ask("/api/v1/doctor", { image });
    const pictures = { [t("lab.original")]: png(told.original) };
    for (const one of told.results) pictures[one.vae] = png(one.image);
    divided($("lab-stage"), pictures);
    drawMeasures(told.results);
    $("lab-diagnosis").replaceChildren(...findings(examined));
    $("lab-examined").hidden = false;
    drawChannels(told.latents, "lab.encoded");
  });
});

$("lab-latents-wish").addEventListener("submit", (event) => {
  event.preventDefault();
  working("lab-decode", async () => {
    const latents = await read64($("lab-latents").files[0]);
    const vae = $("lab-decode-vae").value;
    const url = await askPicture("/api/v1/decode", { latents, vae });
    const seen = await ask("/api/v1/channels", { latents });
    $("lab-stage").replaceChildren(framed(element("img", { src: url, alt: t("lab.decoded", { vae }), translate: false })),
    element("a", { className: "button", href: url, download: "decoded.png", textContent: t("download") }));
    $("lab-table").replaceChildren();
    $("lab-examined").hidden = true;
    drawChannels(seen, "lab.read");
  });
});

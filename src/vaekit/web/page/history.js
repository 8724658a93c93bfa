// History: generations whose latents are kept.

import { ask, askPicture, remove } from "./ask.js";
import { vaes } from "./options.js";
import { $, choose, divided, element, framed, named } from "./parts.js";
import { t } from "./texts.js";

let chosen = null;
let decoded = {};

const told = (work) => async () => {
  $("history-problem").textContent = "";
  try { await work(); } catch (error) { $("history-problem").textContent = error.message; }
};

export const showHistory = told(async () => {
  const records = await ask("/api/v1/history");
  $("history-empty").hidden = records.length > 0;
  $("history-clear").hidden = !records.length;
  if (!records.some((one) => one.id === chosen?.id)) { chosen = null; $("history-one").hidden = true; }
  if (chosen) choose($("history-vae"), vaes(), $("history-vae").value);
  $("history-list").replaceChildren(...records.map((one) => {
    const alt = t("history.alt", { seed: one.seed, vae: one.vae });
    const made = element("button", { type: "button", role: "listitem", translate: false, title: one.text },
      element("img", { src: `/api/v1/history/${one.id}/picture`, alt, loading: "lazy" }), one.text.split("\n")[0] || "–");
    made.ariaPressed = one.id === chosen?.id;
    made.addEventListener("click", () => pick(one, made));
    return made;
  }));
});

async function pick(record, pressed) {
  chosen = record;
  decoded = {};
  for (const one of $("history-list").children) one.ariaPressed = one === pressed;
  $("history-text").textContent = record.text;
  $("history-masked").hidden = !record.masked;
  $("history-file").href = `/api/v1/history/${record.id}/latents`;
  choose($("history-vae"), vaes(), vaes().includes(record.vae) ? record.vae : vaes()[0]);
  $("history-stage").replaceChildren();
  $("history-one").hidden = false;
  if (vaes().includes(record.vae)) await decode();
}

const decode = told(async () => {
  const [record, vae] = [chosen, $("history-vae").value];
  $("history-decode").disabled = true;
  try {
    const url = decoded[vae] ?? await askPicture(`/api/v1/history/${record.id}/decode`, { vae });
    if (record !== chosen) return;
    decoded[vae] = url;
    const names = Object.keys(decoded);
    if (names.length > 1) return divided($("history-stage"), decoded, { left: 0, right: names.indexOf(vae) || 1 });
    $("history-stage").replaceChildren(framed(element("img", { src: url, alt: t("lab.decoded", { vae }), translate: false })), named("p", vae, { className: "hint" }));
  } finally {
    $("history-decode").disabled = false;
  }
});

$("history-decode").addEventListener("click", decode);
$("history-forget").addEventListener("click", told(async () => { await remove(`/api/v1/history/${chosen.id}`); await showHistory(); }));
$("history-clear").addEventListener("click", told(async () => {
  if (!confirm(t("history.sure"))) return;
  await remove("/api/v1/history");
  await showHistory();
}));

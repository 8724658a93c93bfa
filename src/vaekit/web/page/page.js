// The tabs, the language, the colours, and the beginning.

import { ask, byUrl } from "./ask.js";
import { beginWith, fillDraw, setMode } from "./draw.js";
import { showHistory } from "./history.js";
import { sendToLab, showLab } from "./lab.js";
import { showModels } from "./models.js";
import { drawQuick, drawRefresh, drawSettings, readOptions, tellVae } from "./options.js";
import { $, choose, droppable, element } from "./parts.js";
import { speak, t } from "./texts.js";
import { showWatch } from "./watch.js";

const TABS = {
  txt2img: ["draw", () => setMode("txt2img")],
  img2img: ["draw", () => setMode("img2img")],
  lab: ["lab", showLab],
  watch: ["watch", showWatch],
  history: ["history", showHistory],
  models: ["models", showModels],
  settings: ["settings", drawSettings],
};
const nav = document.querySelector("[role=tablist]");

function show(name) {
  for (const tab of nav.children) {
    const on = tab.id === `tab-${name}`;
    tab.ariaSelected = on;
    tab.tabIndex = on ? 0 : -1;
  }
  const [section, begin] = TABS[name];
  for (const one of document.querySelectorAll("main > section")) one.hidden = one.id !== section;
  $(section).setAttribute("aria-labelledby", `tab-${name}`);
  history.replaceState(null, "", `#${name}`);
  begin();
}

function drawTabs() {
  nav.replaceChildren(...Object.entries(TABS).map(([name, [section]]) => {
    const tab = element("button", { type: "button", role: "tab", id: `tab-${name}`, textContent: t(`tab.${name}`) });
    tab.setAttribute("aria-controls", section);
    tab.addEventListener("click", () => show(name));
    return tab;
  }));
}
nav.addEventListener("keydown", (event) => {
  const tabs = [...nav.children];
  const at = tabs.indexOf(document.activeElement);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  tabs[(next + tabs.length) % tabs.length].focus();
  tabs[(next + tabs.length) % tabs.length].click();
});
document.addEventListener("send", ({ detail: { url, to } }) => {
  show(to);
  $(`tab-${to}`).focus();
  if (to === "img2img") beginWith(url); else sendToLab(url);
});

document.addEventListener("refreshed", () => TABS[nav.querySelector("[aria-selected=true]").id.slice("tab-".length)][1]());

// Language and colours: this browser's business, not the server's

async function begin(language) {
  await speak(language);
  drawTabs();
  try {
    await Promise.all([fillDraw(), readOptions()]);
    drawQuick();
    drawRefresh();
    drawSettings();
    await tellVae();
  } catch (error) {
    $("vae-line").textContent = error.message;
    $("vae-line").classList.add("bad");
  }
  const asked = location.hash.slice(1);
  show(asked in TABS ? asked : "txt2img");
}

const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } };

$("theme").addEventListener("change", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  store("theme", event.target.value);
});
$("language").addEventListener("change", (event) => { store("language", event.target.value); begin(event.target.value); });

const languages = await ask("/api/v1/languages");
const wished = [stored("language"), ...navigator.languages.map((one) => one.split("-")[0]), "en"];
const language = wished.find((one) => one in languages);
choose($("language"), Object.entries(languages), language);
await begin(language);
$("theme").value = document.documentElement.dataset.theme = stored("theme") ?? "";
droppable();
byUrl("begin", beginWith, $("problem"));
byUrl("lab", sendToLab, $("lab-problem"));

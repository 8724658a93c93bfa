// Every word on the page stands in texts/LANGUAGE.json; a new language is a new file there.

import { learn } from "./reasons.js";

let texts = {};

export async function speak(language) {
  texts = await (await fetch(`texts/${language}.json`)).json();
  learn(texts.reasons);
  document.documentElement.lang = language;
  translate(document);
}

export function t(key, values = {}) {
  if (!(key in texts)) throw new Error(`no text is called ${key}`);
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const PLACES = { t: "textContent", tTitle: "title", tAlt: "alt", tPlaceholder: "placeholder", tLabel: "ariaLabel" };

export function translate(root) {
  for (const [mark, property] of Object.entries(PLACES)) {
    const attribute = `data-${mark.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    for (const one of root.querySelectorAll(`[${attribute}]`)) one[property] = t(one.dataset[mark]);
  }
}

// Small parts that several tabs are made of.

import { t } from "./texts.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...inside);
  return made;
}

// What is a name or comes from the server is not for translation.
export const named = (tag, text, attributes = {}) => element(tag, { translate: false, textContent: text, ...attributes });

export function button(key, act, attributes = {}) {
  const made = element("button", { type: "button", textContent: t(key), ...attributes });
  made.addEventListener("click", act);
  return made;
}

export function choose(select, names, chosen) {
  select.replaceChildren(...names.map((one) => {
    const [value, text] = Array.isArray(one) ? one : [one, one];
    return element("option", { value, textContent: text, selected: [].concat(chosen ?? []).includes(value) });
  }));
}

export const read64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

export const png = (text) => `data:image/png;base64,${text}`;

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

// Files can be dropped on what is around their field.
export function droppable() {
  for (const area of document.querySelectorAll(".drop")) {
    const input = area.querySelector("input");
    for (const kind of ["dragover", "dragleave", "drop"]) {
      area.addEventListener(kind, (event) => {
        event.preventDefault();
        area.classList.toggle("over", kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files.length) {
          input.files = event.dataTransfer.files;
          input.dispatchEvent(new Event("change", { bubbles: true }));
        }
      });
    }
  }
}

export function enlarge(url, text, cells = false) {
  const [picture, told] = [$("large").querySelector("img"), $("large").querySelector("p")];
  picture.src = url;
  picture.alt = told.textContent = text;
  picture.classList.toggle("cells", cells);
  $("large").showModal();
}

// A box in the proportions of the picture in it.
export function framed(...inside) {
  const box = element("div", { className: "divided" }, ...inside);
  const [first] = inside;
  first.addEventListener("load", () =>
    (box.parentElement ?? box).style.setProperty("--ratio", first.naturalWidth / first.naturalHeight));
  return box;
}

// Two of several pictures with a slider between them. pictures: name -> address.
export function divided(stage, pictures, { left = 0, right = 1 } = {}) {
  const names = Object.keys(pictures);
  const [one, other] = [element("select"), element("select")];
  choose(one, names, names[left]);
  choose(other, names, names[Math.min(right, names.length - 1)]);
  one.translate = other.translate = false;
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50 });
  const [under, over] = [element("img"), element("img")];
  const box = framed(under, over);
  const show = () => {
    [under.src, under.alt] = [pictures[other.value], other.value];
    [over.src, over.alt] = [pictures[one.value], one.value];
    over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    box.style.setProperty("--at", `${slider.value}%`);
  };
  for (const control of [one, other, slider]) control.addEventListener("input", show);
  const point = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const place = box.getBoundingClientRect();
    slider.value = (100 * (event.clientX - place.left)) / place.width;
    show();
  };
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointermove", point);
  const label = (key, control) => element("label", {}, element("span", { textContent: t(key) }), control);
  stage.replaceChildren(
    element("div", { className: "tools divide" }, label("divide.left", one), label("divide.right", other)),
    box, element("div", { className: "divide under" }, label("divide", slider)));
  show();
}

export const cell = (content, attributes = {}) =>
  (content instanceof Node ? element("td", attributes, content) : named("td", content ?? "", attributes));

export function table(place, heads, rows) {
  if (!rows.length) return place.replaceChildren();
  // On a narrow screen each row is a card, and each cell tells what it is: the roles keep it a table.
  const titles = heads.map(([key]) => (key ? t(key) : ""));
  for (const cells of rows) cells.forEach((one, at) => { one.role = "cell"; one.dataset.title = titles[at]; });
  place.role = "table";
  const head = element("tr", { role: "row" }, ...heads.map(([, kind], at) =>
    element("th", { role: "columnheader", scope: "col", className: kind ?? "", textContent: titles[at] })));
  place.replaceChildren(element("thead", { role: "rowgroup" }, head),
    element("tbody", { role: "rowgroup" }, ...rows.map((cells) => element("tr", { role: "row" }, ...cells))));
}

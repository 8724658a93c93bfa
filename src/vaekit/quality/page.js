"use strict";

const byId = (id) => document.getElementById(id);
const [picture, left, right, cut] = ["picture", "left", "right", "cut"].map(byId);
const places = byId("places");

const section = () => byId(picture.value);
const shown = (select, place) =>
  section().querySelector(`img[data-view="${select.value}"][data-place="${place}"]`);
const place = () => places.querySelector("input:checked").value;

function half(image, tag, select) {
  const source = shown(select, place());
  image.src = source.src;
  image.alt = source.alt;
  tag.textContent = select.selectedOptions[0].textContent;
  return source;
}

function show() {
  half(byId("before"), byId("left-name"), left);
  const source = half(byId("after"), byId("right-name"), right);
  const stage = byId("stage");
  stage.style.setProperty("--w", source.getAttribute("width"));
  stage.style.setProperty("--h", source.getAttribute("height"));
  stage.classList.toggle("cells", place() !== "0");
}

function options(select, wanted) {
  const views = [...section().querySelectorAll('img[data-place="0"]')];
  select.replaceChildren(...views.map((image) => new Option(image.dataset.label, image.dataset.view)));
  const kept = views.find((image) => image.dataset.label === wanted);
  if (kept) select.value = kept.dataset.view;
}

function choices() {
  const count = Number(section().dataset.places);
  places.replaceChildren(places.querySelector("legend"), ...Array.from({ length: count + 1 }, (_, number) => {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "place", value: number });
    radio.checked = number === 0;
    label.append(radio, number ? ` place ${number}` : " whole picture");
    return label;
  }));
}

function change() {
  const labels = [left, right].map((select) => select.selectedOptions[0]?.textContent);
  options(left, labels[0]);
  options(right, labels[1]);
  choices();
  show();
}

function slide() {
  byId("stage").style.setProperty("--cut", `${cut.value}%`);
}

picture.addEventListener("change", change);
for (const control of [left, right, places]) control.addEventListener("change", show);
cut.addEventListener("input", slide);
byId("swap").addEventListener("click", () => {
  [left.value, right.value] = [right.value, left.value];
  show();
});
byId("slider").hidden = false;
change();
right.selectedIndex = Math.min(1, right.options.length - 1);
show();
slide();

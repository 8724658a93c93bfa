"use strict";

const byId = (id) => document.getElementById(id);
const before = byId("before");
const after = byId("after");

function slider() {
  const cut = byId("cut");
  const show = () => cut.parentElement.style.setProperty("--cut", `${cut.value}%`);
  cut.addEventListener("input", show);
  show();
}

function vaeChoice() {
  const first = after.src;
  for (const radio of document.querySelectorAll('input[name="vae"]')) {
    radio.addEventListener("change", () => {
      after.src = radio.dataset.picture || first;
      after.alt = `The photo as ${radio.value} gave it back`;
      byId("after-name").textContent = radio.value;
    });
  }
}

const shownImage = (button) => [...button.querySelectorAll("img")].find((image) => image.offsetParent !== null);

function lens(button) {
  const glass = button.querySelector(".lens");
  const power = 4;
  button.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    const box = button.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    glass.classList.add("on");
    glass.style.left = `${x}px`;
    glass.style.top = `${y}px`;
    glass.style.backgroundImage = `url("${shownImage(button).src}")`;
    glass.style.backgroundSize = `${box.width * power}px ${box.height * power}px`;
    const half = glass.clientWidth / 2;
    glass.style.backgroundPosition = `${half - x * power}px ${half - y * power}px`;
  });
}

function fullSize(button) {
  const dialog = byId("zoom");
  button.addEventListener("click", () => {
    const image = shownImage(button);
    const large = dialog.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    dialog.querySelector("p").textContent = button.parentElement.querySelector("figcaption").textContent.replace(/\s+/g, " ");
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

function readLatents(data) {
  const bytes = Uint8Array.from(atob(data.values), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return (channel, row, column) =>
    view.getInt16(2 * ((channel * data.rows + row) * data.columns + column), true) * data.step;
}

function patch(canvas, image, data, column, row) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  const side = data.downscale;
  context.drawImage(image, column * side, row * side, side, side, 0, 0, canvas.width, canvas.height);
}

function marked(canvas, data, column, row) {
  const context = canvas.getContext("2d");
  const cell = canvas.width / data.columns;
  context.drawImage(before, 0, 0, (data.width / data.downscale) * cell, (data.height / data.downscale) * cell);
  const [x, y] = [(column + 0.5) * cell, (row + 0.5) * cell];
  for (const [colour, width] of [["#000a", 5], ["#fff", 2.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x - 12, y - 12, 24, 24);
  }
}

function bars(list, values) {
  const most = 4;
  list.replaceChildren(...values.map((value, channel) => {
    const item = document.createElement("li");
    const bar = document.createElement("span");
    const fill = document.createElement("i");
    const reach = Math.min(Math.abs(value) / most, 1) * 50;
    bar.className = "bar";
    fill.style.left = `${value < 0 ? 50 - reach : 50}%`;
    fill.style.width = `${reach}%`;
    bar.append(fill);
    const number = document.createElement("b");
    number.textContent = value.toFixed(2).replace("-", "\u2212");
    item.append(`channel ${channel}`, bar, number);
    return item;
  }));
}

function probe() {
  const data = JSON.parse(byId("data").textContent);
  const value = readLatents(data);
  const [x, y, map] = [byId("probe-x"), byId("probe-y"), byId("probe-map")];
  // Of its own: the comparison above may show another VAE meanwhile, of another latent space even.
  const rebuilt = Object.assign(new Image(), { src: after.src });
  const show = () => {
    const [column, row] = [Number(x.value), Number(y.value)];
    marked(map, data, column, row);
    patch(byId("probe-in"), before, data, column, row);
    patch(byId("probe-out"), rebuilt, data, column, row);
    bars(byId("probe-values"), Array.from({ length: data.channels }, (_, channel) => value(channel, row, column)));
  };
  const point = (event) => {
    const box = map.getBoundingClientRect();
    x.value = Math.floor(((event.clientX - box.left) / box.width) * data.columns);
    y.value = Math.floor(((event.clientY - box.top) / box.height) * data.rows);
    show();
  };
  map.addEventListener("pointerdown", point);
  map.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && point(event));
  x.addEventListener("input", show);
  y.addEventListener("input", show);
  document.querySelector(".probe").hidden = false;
  Promise.all([before.decode(), rebuilt.decode()]).then(show);
}

slider();
vaeChoice();
for (const button of document.querySelectorAll(".zoomable")) {
  lens(button);
  fullSize(button);
}
probe();

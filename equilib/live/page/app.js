/** The page: what the reader turns and chooses, and what follows from it. */

import { dragToTurn } from "./drag.js";
import { Network } from "./network.js";
import { readPicture, WrongFile } from "./picture.js";
import { Ring } from "./ring.js";
import { hexadecimal, inDisc, probability, toBytes } from "./rotation.js";
import { bitsTable, patchRow } from "./tables.js";
import * as words from "./words.js";

const TURNS = [0, 90, 180, 270];
const STEP = 10; // degrees between two points of the ring: 36 of them
const $ = (id) => document.getElementById(id);

const state = { picture: null, degrees: 0 };
const slots = ["first", "second"].map((name, index) => ({ name, index, network: new Network(), own: null }));
const manifest = await (await fetch("manifest.json")).json(); // while the networks' threads start
const ring = new Ring($("ring"), ["first", "second"]);
const library = []; // the page's own pictures, read once
const embedded = new URLSearchParams(location.search).has("embed"); // the first step alone, in the course's start page
const bits = (logits) => [...logits].map(hexadecimal).join(" ");

// --- answers ---

const settings = (slot) => ({ size: slot.network.size, mean: manifest.mean, std: manifest.std });

/** The answer where the tissue stands now; while one is computed, only the latest wish is kept. */
async function follow(slot) {
  slot.again = slot.following;
  if (slot.following || !slot.network.size) return;
  slot.following = true;
  do {
    slot.again = false;
    const { picture, degrees } = state;
    const logits = await slot.network.run(() => picture.input(settings(slot), degrees), { first: true });
    if (picture === state.picture) {
      slot.now = { degrees, logits };
      showAnswer(slot);
    }
  } while (slot.again);
  slot.following = false;
}

/** The four quarter turns, then the ring, then its control. */
async function sweep(slot) {
  const { picture } = state;
  const { network } = slot;
  const count = 360 / STEP;
  const token = (slot.sweeping = Symbol(slot.name));
  const current = () => token === slot.sweeping;
  network.cancel("sweep");
  Object.assign(slot, { turns: null, values: Array(count), control: Array(count) });
  ring.draw(slot.index, "curve", []);
  ring.draw(slot.index, "control", []);
  const ask = (input) => network.run(input, { group: "sweep" });
  const started = performance.now();
  const turns = await Promise.all(TURNS.map((degrees) => ask(() => picture.input(settings(slot), degrees))));
  if (!current()) return;
  slot.turns = turns;
  showAnswer(slot);
  showBits();
  const jobs = [...Array(count).keys()].map(async (i) => {
    const quarter = TURNS.indexOf(i * STEP);
    const logits = quarter >= 0 ? turns[quarter] : await ask(() => picture.input(settings(slot), i * STEP));
    if (!current()) return;
    slot.values[i] = probability(logits);
    ring.draw(slot.index, "curve", slot.values);
  });
  await Promise.all(jobs);
  if (!current()) return;
  performance.measure("ring", { start: started });
  showRing();
  showAnswer(slot); // by now the time of an answer is known better
  const controls = [...Array(count).keys()].map(async (i) => {
    const logits = TURNS.includes(i * STEP) ? turns[0] : await ask(() => picture.thereAndBack(settings(slot), i * STEP));
    if (!current()) return;
    slot.control[i] = probability(logits);
    ring.draw(slot.index, "control", slot.control);
  });
  await Promise.all(controls);
  if (!current()) return;
  performance.measure("control", { start: started });
  showAnswer(slot);
}

/** All real patches at the four turns: once for each network. */
async function sweepAll(slot) {
  if (embedded) return;
  slot.network.cancel("all");
  slot.ranges = null;
  const token = (slot.comparing = Symbol(slot.name));
  const patches = library.filter(({ about }) => about.source.startsWith("PCam"));
  const ranges = await Promise.all(patches.map((picture) =>
    Promise.all(TURNS.map(async (degrees) =>
      probability(await slot.network.run(() => picture.input(settings(slot), degrees), { group: "all" }))))));
  if (token !== slot.comparing) return;
  slot.ranges = ranges;
  showAll(patches);
  if (slots.every((other) => other.ranges)) document.documentElement.dataset.computed = "";
}

// --- what is shown ---

const title = (slot) => slot.own ?? slot.about.title;
const same = (a, b) => bits(a) === bits(b);

function showPicture() {
  const { picture, degrees } = state;
  const n = manifest.size;
  const { mean, std } = manifest;
  const bytes = toBytes(picture.input({ size: n, mean, std }, degrees), n, mean, std);
  for (let i = 0; i < n * n; i++) if (!inDisc(Math.floor(i / n), i % n, n)) bytes[4 * i + 3] = 0;
  $("tissue").getContext("2d").putImageData(new ImageData(bytes, n, n), 0, 0);
  $("degrees").textContent = `${degrees}°`;
  $("slider").value = degrees;
  $("slider").setAttribute("aria-valuetext", words.angles(degrees));
  for (const button of document.querySelectorAll("[data-turn]")) {
    button.setAttribute("aria-pressed", Number(button.dataset.turn) === degrees % 360);
  }
  ring.turn(degrees);
}

function showAnswer(slot) {
  const { now, turns, card } = slot;
  if (!now) return;
  const p = probability(now.logits);
  card.number.textContent = words.percent(p);
  card.says.textContent = words.verdict(p);
  card.bar.style.setProperty("--p", p);
  card.root.dataset.logits = [...now.logits].join(" ");
  card.root.dataset.degrees = now.degrees;
  ring.mark(slot.index, now.degrees, p);
  const equal = turns && same(now.logits, turns[0]);
  card.change.textContent = turns ? words.change(now.degrees, p, probability(turns[0]), equal) : "";
  card.change.dataset.same = Boolean(equal && now.degrees % 90 === 0 && now.degrees % 360);
  const { bytes } = slot.about;
  card.facts.textContent = `${(bytes / 1e6).toFixed(2)} MB · ${slot.network.median.toFixed(1)} ms an answer`;
  if (slots.every((other) => other.now?.degrees === now.degrees && other.turns)) showNotice(now.degrees);
  if (slots.every((other) => other.now)) performance.mark("answered");
}

function showNotice(degrees) {
  const answers = slots.map((slot) => ({
    title: title(slot),
    now: probability(slot.now.logits),
    upright: probability(slot.turns[0]),
    same: same(slot.now.logits, slot.turns[0]),
  }));
  $("notice").textContent = words.notice(degrees, answers);
  clearTimeout(showNotice.timer);
  showNotice.timer = setTimeout(() => {
    const each = answers.map(({ title, now }) => `${title}: ${words.percent(now)}`).join(", ");
    $("spoken").textContent = `${degrees} degrees. ${each}. ${$("notice").textContent}`;
  }, 700);
}

function showRing() {
  const ready = slots.filter((slot) => slot.turns && !slot.values.includes(undefined));
  const curves = ready.map((slot) => ({
    title: title(slot),
    values: Array.from(slot.values),
    turns: slot.turns.map(bits),
  }));
  $("ring-notice").textContent = words.ringNotice(curves);
  $("seen-notice").textContent = words.seenNotice(slots.map((slot) => ({ title: title(slot), seen: slot.about.seen })));
  $("ring").setAttribute("aria-label", `Probability of tumour against angle. ${words.ringNotice(curves)}`);
}

function showBits() {
  const ready = slots.filter((slot) => slot.turns);
  const columns = ready.map((slot) => ({
    name: slot.name,
    title: title(slot),
    rows: slot.turns.map((logits, i) => ({
      degrees: TURNS[i],
      numbers: [...logits].map(hexadecimal),
      same: same(logits, slot.turns[0]),
    })),
  }));
  $("bits").replaceChildren(...columns.map(bitsTable));
  $("bits-notice").textContent = words.bitsNotice(columns);
}

function showAll(patches) {
  const ready = slots.filter((slot) => slot.ranges);
  $("all").replaceChildren(...patches.map((picture, i) => {
    const answers = ready.map((slot) => ({ name: slot.name, title: title(slot), turns: slot.ranges[i] }));
    const row = patchRow(picture.about, answers);
    row.addEventListener("click", () => choose(picture));
    return row;
  }));
  $("all-notice").textContent = words.allNotice(ready.map((slot) => ({ title: title(slot), ranges: slot.ranges })));
}

// --- what the reader does ---

function turn(degrees) {
  state.degrees = degrees;
  requestAnimationFrame(() => {
    showPicture();
    slots.forEach(follow);
  });
}

/** What a network has said of another picture, or another network of this one. */
function forget(slot) {
  slot.now = slot.turns = null;
  delete slot.card.root.dataset.degrees;
}

function choose(picture) {
  state.picture = picture;
  $("about").textContent = words.aboutPicture(picture.about);
  for (const thumb of $("thumbs").children) thumb.setAttribute("aria-pressed", thumb.picture === picture);
  slots.forEach(forget);
  showBits();
  turn(state.degrees);
  for (const slot of slots) if (slot.network.size) sweep(slot);
}

/** Put a network into a slot: one of the menu, or the bytes of the reader's own file. */
async function put(slot, about, bytes = null, name = about.title) {
  if (bytes === null) {
    let response = null;
    try {
      response = await fetch(about.file);
    } catch {
      // said below
    }
    if (!response?.ok) throw new WrongFile(`«${about.title}» was not loaded before, and there is no network now: connect, then choose it again.`);
    bytes = await response.arrayBuffer();
  }
  const size = bytes.byteLength;
  await slot.network.open(bytes, name);
  Object.assign(slot, { about: { ...about, bytes: size }, own: about.name ? null : name });
  forget(slot);
  slot.card.select.value = about.name ?? "own";
  slot.card.words.textContent = about.words ?? "a file of your own";
  $(`legend-${slot.index}`).textContent = title(slot);
}

/** Everything that a network has to answer, what the reader looks at first. */
async function compute(slot) {
  if (slot.network.size > state.picture.n) choose(library[0]); // it takes more pixels than the reader's picture has
  follow(slot);
  await sweep(slot);
  sweepAll(slot);
}

function makeCard(slot) {
  const root = document.querySelector(`[data-slot="${slot.index}"]`);
  const make = (tag, name) => {
    const element = document.createElement(tag);
    element.className = name;
    return element;
  };
  const select = make("select", "menu");
  select.setAttribute("aria-label", `${slot.name} network`);
  for (const { name, title } of manifest.networks) select.add(new Option(title, name));
  select.add(new Option("a file of your own …", "own"));
  select.addEventListener("change", () => {
    const about = manifest.networks.find(({ name }) => name === select.value);
    if (about) guarded(() => put(slot, about)).then(() => compute(slot));
    else askForNetwork(slot);
    if (!about) select.value = slot.own ? "own" : slot.about.name;
  });
  const [number, says, bar] = [make("strong", "number"), make("span", "says"), make("div", "bar-track")];
  const [change, facts, text] = [make("p", "change"), make("p", "facts-line"), make("p", "trained")];
  number.textContent = "…";
  const line = make("p", "answer");
  line.append(number, " tumour");
  bar.append(make("span", "bar-fill"), make("span", "bar-half"));
  const saying = make("p", "saying");
  saying.append("It says «", says, "»");
  root.replaceChildren(select, text, line, bar, saying, change, facts);
  slot.card = { root, select, number, says, bar, change, facts, words: text };
}

let asked = slots[0];
function askForNetwork(slot) {
  asked = slot;
  $("network-file").click();
}

/** A file that does not fit gets its sentence; anything else is a mistake of ours and stays in the console. */
async function guarded(action) {
  $("trouble").textContent = "";
  try {
    await action();
  } catch (error) {
    if (!(error instanceof WrongFile)) throw error;
    $("trouble").textContent = error.message;
    for (const slot of slots) if (slot.about) slot.card.select.value = slot.own ? "own" : slot.about.name;
  }
}

/** A picture or a network, by the name of the file. */
function take(file, slot = slots[0]) {
  return guarded(async () => {
    if (file.name.toLowerCase().endsWith(".onnx")) {
      await put(slot, {}, await file.arrayBuffer(), file.name);
      compute(slot);
    } else {
      const picture = await readPicture(file, file.name, manifest, { title: file.name });
      if (slots.some(({ network }) => network.size > picture.n)) throw new WrongFile(`«${file.name}» has ${picture.n} × ${picture.n} pixels, and one of the networks takes more.`);
      choose(picture);
      $("stage").scrollIntoView({ behavior: "smooth", block: "center" });
    }
  });
}

function listen() {
  $("slider").addEventListener("input", () => turn(Number($("slider").value)));
  for (const button of document.querySelectorAll("[data-turn]")) {
    button.addEventListener("click", () => turn(Number(button.dataset.turn)));
  }
  dragToTurn($("tissue"), () => state.degrees, turn);

  const files = { "choose-picture": "picture-file", "take-picture": "camera-file" };
  for (const [button, input] of Object.entries(files)) $(button).addEventListener("click", () => $(input).click());
  $("choose-network").addEventListener("click", () => askForNetwork(slots[0]));
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      const [file] = input.files;
      if (file) take(file, asked);
      asked = slots[0];
      input.value = "";
    });
  }
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    const card = event.target.closest?.("[data-slot]");
    if (file) take(file, slots[card?.dataset.slot ?? 0]);
  });
}

function makeThumb(picture) {
  const button = document.createElement("button");
  button.type = "button";
  button.picture = picture;
  const { file, tumour, source } = picture.about;
  const image = document.createElement("img");
  const kind = source.startsWith("PCam") ? "tissue" : "synthetic tissue";
  Object.assign(image, { src: file, width: 48, height: 48, alt: `${kind} with${tumour ? "" : "out"} tumour` });
  button.append(image);
  button.addEventListener("click", () => choose(picture));
  return button;
}

async function start() {
  document.body.classList.toggle("embed", embedded);
  for (const link of document.querySelectorAll("[data-notebook], [data-course]")) {
    const address = manifest.notebooks[link.dataset.notebook] ?? manifest.course;
    if (address) link.href = address;
    else link.removeAttribute("href"); // the course has no address yet: the name of the notebook says enough
  }
  if (self !== top) for (const link of document.links) link.target = "_top";
  slots.forEach(makeCard);
  listen();
  const byName = (name) => manifest.networks.find((network) => network.name === name);
  const loaded = slots.map((slot, i) => put(slot, byName(manifest.start[["equivariant", "conventional"][i]])));
  library.push(...await Promise.all(manifest.pictures.map(async (about) =>
    readPicture(await (await fetch(about.file)).blob(), about.file, manifest, about))));
  $("thumbs").append(...library.map(makeThumb));
  choose(library.find(({ about }) => about.file === manifest.start.picture));
  loaded.forEach((ready, i) => ready.then(() => compute(slots[i])));
  await Promise.all(loaded);
  $("speed").textContent = `onnxruntime-web ${manifest.onnxruntime}, one thread of WebAssembly for each network. The milliseconds on the cards are the median of the last answers on this very device.`;
  if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
}

try {
  await start();
} catch (error) {
  $("notice").textContent = `This page could not start: ${error.message} It needs a browser of 2024 or newer, with WebAssembly.`;
  throw error;
}

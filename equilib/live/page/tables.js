/** What steps 3 and 4 show: plain values in, elements out. */

import { percent } from "./words.js";

function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}

/** The logits of one network at the quarter turns. */
export function bitsTable({ name, title, rows }) {
  const table = element("table", name);
  table.createCaption().textContent = title;
  const head = table.createTHead().insertRow();
  for (const text of ["turn", "no tumour", "tumour", "as upright?"]) head.append(header("col", text));
  const body = table.createTBody();
  for (const { degrees, numbers, same } of rows) {
    const row = body.insertRow();
    row.dataset.equal = same;
    row.append(header("row", `${degrees}°`));
    for (const number of numbers) row.insertCell().append(element("code", "", number));
    row.insertCell().textContent = degrees === 0 ? "" : same ? "= same bits" : "≠ other bits";
  }
  return table;
}

function header(scope, text) {
  const cell = element("th", "", text);
  cell.scope = scope;
  return cell;
}

/** One patch: from the lowest to the highest answer of each network. A button, to look at it above. */
export function patchRow({ file, tumour }, answers) {
  const row = element("button", "row");
  row.type = "button";
  row.dataset.tumour = tumour;
  const image = Object.assign(element("img"), { src: file, alt: "", width: 34, height: 34 });
  const track = element("span", "track");
  const spoken = answers.map(({ name, title, turns }) => {
    const [low, high] = [Math.min(...turns), Math.max(...turns)];
    const range = track.appendChild(element("span", `range ${name}`));
    range.style.setProperty("--low", low);
    range.style.setProperty("--high", high);
    return `${title} ${percent(low)}${high > low ? ` to ${percent(high)}` : ""}`;
  });
  row.append(image, element("span", "truth", tumour ? "tumour" : "no tumour"), track, element("span", "hidden", spoken.join(", ")));
  return row;
}

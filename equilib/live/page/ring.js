/** The ring around the tissue: probability against angle, drawn counter-clockwise from the top, as the tissue turns. */

const INNER = 116;
const OUTER = 190;
const radius = (p) => INNER + (OUTER - INNER) * p;
const point = (degrees, r) => {
  const a = (degrees * Math.PI) / 180;
  return [-r * Math.sin(a), -r * Math.cos(a)];
};

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

export class Ring {
  constructor(svg, names) {
    this.svg = svg;
    for (const [p, kind] of [[0, "grid"], [0.5, "half"], [1, "grid"]]) svg.append(element("circle", { r: radius(p), class: kind }));
    for (const degrees of [0, 90, 180, 270]) {
      const [x, y] = point(degrees, OUTER + 13);
      svg.append(element("text", { x, y, class: "angle-label" }, `${degrees}°`));
    }
    for (const p of [0, 0.5, 1]) {
      const [x, y] = point(-45, radius(p));
      svg.append(element("text", { x, y, class: "level" }, `${100 * p} %`));
    }
    this.ray = svg.appendChild(element("line", { class: "ray" }));
    this.curves = names.map((name) => ({
      control: svg.appendChild(element("path", { class: `control ${name}` })),
      curve: svg.appendChild(element("path", { class: `curve ${name}` })),
    }));
    this.dots = names.map((name) =>
      svg.appendChild(name === "second" ? element("rect", { width: 11, height: 11, class: name }) : element("circle", { r: 6.5, class: name })));
  }

  /** @param {(number|undefined)[]} values probabilities at equal steps from 0; those still missing leave a gap */
  draw(slot, kind, values) {
    const step = 360 / values.length;
    let path = "";
    let pen = false;
    for (let i = 0; i <= values.length; i++) {
      const value = values[i % values.length];
      if (value === undefined) pen = false;
      else {
        path += `${pen ? "L" : "M"}${point(i * step, radius(value)).map((x) => x.toFixed(2)).join(" ")}`;
        pen = true;
      }
    }
    this.curves[slot][kind].setAttribute("d", path);
  }

  /** Where the tissue stands now. */
  turn(degrees) {
    const [[x1, y1], [x2, y2]] = [point(degrees, 100), point(degrees, OUTER)];
    for (const [key, value] of Object.entries({ x1, y1, x2, y2 })) this.ray.setAttribute(key, value);
  }

  mark(slot, degrees, value) {
    const [x, y] = point(degrees, radius(value));
    this.dots[slot].setAttribute("transform", `translate(${x} ${y})${slot ? " translate(-5.5 -5.5)" : ""}`);
  }
}

/** What the page says of what it shows. */

export const percent = (p) => `${(100 * p).toFixed(1)} %`;
const points = (a, b) => `${(100 * Math.abs(a - b)).toFixed(1)} points`;
export const verdict = (p) => (p > 0.5 ? "tumour" : "no tumour");
export const angles = (degrees) => `${degrees} degrees counter-clockwise`;

/** One network at one angle, beside its answer for the upright picture. */
export function change(degrees, now, upright, same) {
  if (degrees % 360 === 0) return "upright";
  if (degrees % 90 === 0) return same ? "the same as upright, to the last bit" : `${points(now, upright)} away from upright`;
  return `${points(now, upright)} away from upright`;
}

/** The sentence below the cards. Each answer: {title, now, upright, same}. */
export function notice(degrees, answers) {
  if (degrees % 360 === 0) {
    return "Drag the tissue, or move the slider. The ring around it is the answer at every angle: the further out, the more probable a tumour. The two dots show where you are.";
  }
  const each = answers.map(({ title, now, upright, same }) => {
    if (degrees % 90 === 0 && same) return `«${title}» gives the same bits as upright.`;
    const turned = verdict(now) === verdict(upright) ? "" : `, and so says «${verdict(now)}» instead of «${verdict(upright)}»`;
    return `«${title}» is off by ${points(now, upright)}${turned}.`;
  });
  const why = degrees % 90 === 0
    ? `At ${degrees}° every pixel moves to another place, and none changes.`
    : `At ${degrees}° pixels are interpolated, so that a small change is fair.`;
  return [why, ...each].join(" ");
}

/** What the curves show. */
export function ringNotice(curves) {
  return curves.map(({ title, values, turns }) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const classes = new Set(values.map(verdict));
    const answers = new Set(turns).size;
    const steady = answers === 1 ? "one answer at all four quarter turns" : `${answers} different answers at the four quarter turns`;
    return `«${title}» runs from ${percent(low)} to ${percent(high)}${classes.size > 1 ? ", crosses 50 %," : ""} and gives ${steady}.`;
  }).join(" ");
}

/** What the networks were shown in training; nothing where we do not know it of both. */
export function seenNotice(networks) {
  if (networks.some(({ seen }) => !seen)) return "";
  const each = networks.map(({ title, seen }) => `«${title}» was shown patches turned by ${seen}`);
  return `While they were trained, ${each.join(", and ")}. To be shown turns helps on average; only to be built for them promises something for a single patch.`;
}

/** @param {{title: string, rows: {same: boolean}[]}[]} columns of the tables */
export function bitsNotice(columns) {
  return columns.map(({ title, rows }) => {
    const others = rows.filter(({ same }) => !same).length;
    return others === 0
      ? `«${title}»: the four turns do not differ in a single bit.`
      : `«${title}»: ${["one of the three turns gives", "two of the three turns give", "all three turns give"][others - 1]} other numbers.`;
  }).join(" ");
}

/** @param {{title: string, ranges: number[][]}[]} columns for each picture the four answers */
export function allNotice(columns) {
  return columns.map(({ title, ranges }) => {
    const flips = ranges.filter((answers) => new Set(answers.map(verdict)).size > 1).length;
    const swing = Math.max(...ranges.map((answers) => Math.max(...answers) - Math.min(...answers)));
    const most = swing === 0 ? "no answer moves at all" : `the largest swing is ${(100 * swing).toFixed(0)} points`;
    return `«${title}» changes its mind on ${flips} of ${ranges.length}; ${most}.`;
  }).join(" ");
}

export function aboutPicture({ tumour, source, scaled, title }) {
  const truth = tumour === undefined ? "" : `Pathologists found ${tumour ? "tumour" : "no tumour"} in its centre. `;
  if (source?.startsWith("synthetic")) return `Not real tissue: drawn by the course's generator ${tumour ? "with" : "without"} tumour in its centre. The networks never saw its like.`;
  if (title) return `«${title}», your own picture${scaled ? ` (its centre, scaled from ${scaled} to 96 × 96 pixels)` : ""}.`;
  return `${truth}${source}.`;
}

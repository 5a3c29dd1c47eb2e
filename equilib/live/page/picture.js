/** Pictures: those of the page, and the reader's own. */

import { crop, normalize, rotate } from "./rotation.js";

const KEPT = 24; // inputs of one picture, of 100 kB each

/** A sentence for the reader. */
export class WrongFile extends Error {}

/** One picture, upright and as the networks get it. */
export class Picture {
  /**
   * @param {Uint8ClampedArray} pixels RGB, n * n
   * @param {object} about what to say of it: title, source, tumour (true, false, or undefined where nobody knows)
   */
  constructor(pixels, n, about) {
    Object.assign(this, { pixels, n, about, kept: new Map() });
  }

  /** The network's input: cropped, normalised, then turned. All rotations act after the crop. */
  input({ size, mean, std }, degrees) {
    const upright = this.#keep(`${size}`, () => normalize(crop(this.pixels, this.n, size), size, mean, std));
    return this.#keep(`${size} ${degrees}`, () => rotate(upright, size, degrees));
  }

  /** Turned there and back again: where it began, but for two interpolations. */
  thereAndBack(settings, degrees) {
    const { size } = settings;
    return this.#keep(`${size} ${degrees} back`, () => rotate(this.input(settings, degrees), size, -degrees));
  }

  /** Two networks ask for the same inputs, one shortly after the other. */
  #keep(key, make) {
    if (!this.kept.has(key)) {
      if (this.kept.size >= KEPT) this.kept.delete(this.kept.keys().next().value);
      this.kept.set(key, make());
    }
    return this.kept.get(key);
  }
}

/** Read an image file of any kind that the browser knows; 96 x 96 and 95 x 95 pixels are taken as they are. */
export async function readPicture(blob, name, { patch, size }, about = {}) {
  await assertWhole(blob, name);
  let bitmap;
  try {
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new WrongFile(`«${name}» is no picture that this browser can read: choose a PNG or JPEG file.`);
  }
  const { width, height } = bitmap;
  const asItIs = width === height && (width === patch || width === size);
  const n = asItIs ? width : patch;
  const side = Math.min(width, height);
  const canvas = new OffscreenCanvas(n, n);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, n, n);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (width - side) / 2, (height - side) / 2, side, side, 0, 0, n, n);
  bitmap.close();
  const rgba = context.getImageData(0, 0, n, n).data;
  const pixels = new Uint8ClampedArray(3 * n * n);
  for (let i = 0; i < n * n; i++) pixels.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  return new Picture(pixels, n, { ...about, scaled: asItIs ? null : `${width} × ${height}` });
}

/** Browsers draw the upper part of a PNG that was cut off; a network should not answer for it. */
async function assertWhole(blob, name) {
  if (blob.size === 0) throw new WrongFile(`«${name}» is empty.`);
  const png = [0x89, 0x50, 0x4e, 0x47];
  const head = new Uint8Array(await blob.slice(0, 8).arrayBuffer());
  if (!png.every((byte, i) => head[i] === byte)) return;
  const view = new DataView(await blob.arrayBuffer());
  for (let at = 8; at + 12 <= view.byteLength; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49454e44) return; // IEND
  }
  throw new WrongFile(`«${name}» is cut off before its end: copy the file again.`);
}

/** Crop, normalisation and rotation, number for number as in equilib.pcam and equilib.fields.
 *
 * A picture is planar: Float32Array of 3 * n * n, channel by channel, row by row. A positive angle turns
 * counter-clockwise. Every operation is rounded to 32 bits (Math.fround), since that is what torch and scikit-image do.
 */

const f = Math.fround;

/** equilib.pcam.crop: (n, n) to (size, size); from 96 to 95 this takes the last row and column off. */
export function crop(pixels, n, size) {
  if (size > n) throw new RangeError(`cannot crop ${n} pixels to ${size}`);
  const start = Math.floor((n - size) / 2);
  const result = new Uint8ClampedArray(3 * size * size);
  for (let row = 0; row < size; row++) {
    const from = 3 * ((row + start) * n + start);
    result.set(pixels.subarray(from, from + 3 * size), 3 * row * size);
  }
  return result;
}

/** equilib.pcam.normalize: RGB bytes, pixel by pixel, to a planar picture of zero mean and unit variance over PCam. */
export function normalize(pixels, n, mean, std) {
  const area = n * n;
  const result = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const centre = f(255 * f(mean[channel]));
    const spread = f(255 * f(std[channel]));
    for (let i = 0; i < area; i++) result[channel * area + i] = f(f(pixels[3 * i + channel] - centre) / spread);
  }
  return result;
}

/** The way back, for the screen: a planar picture to RGBA bytes. */
export function toBytes(planar, n, mean, std) {
  const area = n * n;
  const result = new Uint8ClampedArray(4 * area);
  for (let i = 0; i < area; i++) {
    for (let channel = 0; channel < 3; channel++) {
      result[4 * i + channel] = 255 * (planar[channel * area + i] * std[channel] + mean[channel]);
    }
    result[4 * i + 3] = 255;
  }
  return result;
}

/** equilib.fields.rotate. Multiples of 90 degrees move pixels; other angles are interpolated (bicubic). */
export function rotate(planar, n, degrees) {
  const turns = degrees / 90;
  return Number.isInteger(turns) ? quarterTurns(planar, n, ((turns % 4) + 4) % 4) : interpolate(planar, n, degrees);
}

/** torch.rot90: no value changes. */
function quarterTurns(planar, n, turns) {
  const result = new Float32Array(planar.length);
  const last = n - 1;
  const source = [
    (row, column) => row * n + column,
    (row, column) => column * n + (last - row),
    (row, column) => (last - row) * n + (last - column),
    (row, column) => (last - column) * n + row,
  ][turns];
  for (let channel = 0; channel < 3; channel++) {
    const offset = channel * n * n;
    for (let row = 0; row < n; row++) {
      for (let column = 0; column < n; column++) {
        result[offset + row * n + column] = planar[offset + source(row, column)];
      }
    }
  }
  return result;
}

/** skimage.transform.rotate with order 3 and mode "edge": Catmull-Rom splines; outside the picture its edge repeats. */
function interpolate(planar, n, degrees) {
  const radians = degrees * (Math.PI / 180);
  const cosine = Math.cos(radians);
  const sine = Math.sin(radians);
  const centre = n / 2 - 0.5;
  const [xx, xy, x0] = [f(cosine), f(-sine), f(centre - cosine * centre + sine * centre)];
  const [yx, yy, y0] = [f(sine), f(cosine), f(centre - sine * centre - cosine * centre)];
  const area = n * n;
  const last = n - 1;
  const result = new Float32Array(planar.length);
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n; column++) {
      const x = f(f(f(xx * column) + f(xy * row)) + x0);
      const y = f(f(f(yx * column) + f(yy * row)) + y0);
      const left = Math.floor(x);
      const top = Math.floor(y);
      const dx = f(x - left);
      const dy = f(y - top);
      const c0 = clamp(left - 1, last), c1 = clamp(left, last), c2 = clamp(left + 1, last), c3 = clamp(left + 2, last);
      const r0 = n * clamp(top - 1, last), r1 = n * clamp(top, last), r2 = n * clamp(top + 1, last), r3 = n * clamp(top + 2, last);
      for (let start = 0; start < planar.length; start += area) {
        const p0 = start + r0, p1 = start + r1, p2 = start + r2, p3 = start + r3;
        result[start + row * n + column] = cubic(
          dy,
          cubic(dx, planar[p0 + c0], planar[p0 + c1], planar[p0 + c2], planar[p0 + c3]),
          cubic(dx, planar[p1 + c0], planar[p1 + c1], planar[p1 + c2], planar[p1 + c3]),
          cubic(dx, planar[p2 + c0], planar[p2 + c1], planar[p2 + c2], planar[p2 + c3]),
          cubic(dx, planar[p3 + c0], planar[p3 + c1], planar[p3 + c2], planar[p3 + c3]),
        );
      }
    }
  }
  return result;
}

const clamp = (i, last) => (i < 0 ? 0 : i > last ? last : i);

/** The Catmull-Rom spline through four values, between the second and the third. */
function cubic(t, a, b, c, d) {
  const third = f(f(f(3 * f(b - c)) + d) - a);
  const second = f(f(f(f(f(2 * a) - f(5 * b)) + f(4 * c)) - d) + f(t * third));
  const first = f(f(c - a) + f(t * second));
  return f(b + f(f(0.5 * t) * first));
}

/** equilib.fields.disc_mask: whether a pixel lies in the largest centred disc, which is all that the networks see. */
export function inDisc(row, column, n) {
  const [y, x] = [row - (n - 1) / 2, column - (n - 1) / 2];
  return y * y + x * x <= (n / 2) ** 2;
}

/** A number of 32 bits in hexadecimal, as Python's float.hex writes it: no digit is rounded away. */
export function hexadecimal(value) {
  const number = Math.abs(f(value));
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  if (number === 0) return `${sign}0x0.000000p+0`;
  const exponent = Math.max(-126, Math.floor(Math.log2(number)));
  // log2 may be off by one just below a power of two.
  for (const e of [exponent, exponent + 1, exponent - 1]) {
    const mantissa = number / 2 ** e;
    if ((mantissa >= 1 && mantissa < 2) || (e === -126 && mantissa < 1)) {
      const whole = Math.floor(mantissa);
      // 23 bits and a zero are six hexadecimal digits.
      const digits = ((mantissa - whole) * 2 ** 24).toString(16).padStart(6, "0");
      return `${sign}0x${whole}.${digits}p${e < 0 ? "-" : "+"}${Math.abs(e)}`;
    }
  }
  throw new RangeError(`no finite number: ${value}`);
}

/** Probability of the second class, from two logits. */
export function probability(logits) {
  return 1 / (1 + Math.exp(logits[0] - logits[1]));
}

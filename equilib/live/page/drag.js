/** Turning a picture by dragging it about its centre. */

const SNAP = 2.5; // degrees within which a drag stops at a quarter turn

/**
 * @param {() => number} current the angle in degrees, counter-clockwise
 * @param {(degrees: number) => void} turn takes whole degrees, from 0 to 360
 */
export function dragToTurn(element, current, turn) {
  const towards = ({ clientX, clientY }) => {
    const box = element.getBoundingClientRect();
    return (Math.atan2(box.top + box.height / 2 - clientY, clientX - box.left - box.width / 2) * 180) / Math.PI;
  };
  let grip = null;
  element.addEventListener("pointerdown", (event) => {
    grip = towards(event) - current();
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (grip === null) return;
    const free = (((towards(event) - grip) % 360) + 360) % 360;
    const quarter = 90 * Math.round(free / 90);
    turn(Math.abs(free - quarter) < SNAP ? quarter : Math.round(free));
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => (grip = null));
}

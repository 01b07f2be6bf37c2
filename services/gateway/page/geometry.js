// The world from above and on a screen; nothing here touches the page.
//
// A camera is 12 numbers, three rows of camera-to-world with OpenCV axes (x right, y down, z forward). From above x goes
// to the right and z upwards; angles are radians to the right of z. A view is `{x, z, scale, width, height}`: the place
// in the middle, pixels a unit, and pixels of the screen.

/** What a circle's arc is drawn with, radians a corner. */
const CORNER = Math.PI / 24;

/** Where a camera stands, from above. */
export const place = (camera) => [camera[3], camera[11]];

/** Where it looks. */
export const heading = (camera) => Math.atan2(camera[2], camera[10]);

/** An angle between -pi and pi. */
export const wrapped = (angle) => angle - 2 * Math.PI * Math.round(angle / (2 * Math.PI));

/** Where on the screen a place of the world is. */
export function toScreen(view, [x, z]) {
  return [(x - view.x) * view.scale + view.width / 2, (view.z - z) * view.scale + view.height / 2];
}

/** Which place of the world is there on the screen. */
export function toWorld(view, [px, py]) {
  return [(px - view.width / 2) / view.scale + view.x, view.z - (py - view.height / 2) / view.scale];
}

/** The view after a zoom by a factor, within limits of its scale; what is at the anchor on the screen stays there. */
export function zoomed(view, factor, anchor, [least, most]) {
  const scale = Math.min(most, Math.max(least, view.scale * factor));
  const [x, z] = toWorld(view, anchor);
  const [movedX, movedZ] = toWorld({ ...view, scale }, anchor);
  return { ...view, scale, x: view.x + x - movedX, z: view.z + z - movedZ };
}

/** The view moved by pixels of the screen, as if it were dragged. */
export function dragged(view, dx, dy) {
  return { ...view, x: view.x - dx / view.scale, z: view.z + dy / view.scale };
}

/** The view that shows all places with a margin around them, in units; at least one place. */
export function fitted(view, places, margin, [least, most]) {
  const [[left, right], [near, far]] = [0, 1].map((axis) => {
    const [from, to] = spanned(places, axis);
    return [from - margin, to + margin];
  });
  const scale = Math.min(view.width / (right - left), view.height / (far - near));
  return { ...view, x: (left + right) / 2, z: (near + far) / 2, scale: Math.min(most, Math.max(least, scale)) };
}

/** The least and the most of one axis. */
function spanned(places, axis) {
  let [least, most] = [Infinity, -Infinity]; // of very many places: no call takes so many arguments
  for (const { [axis]: value } of places) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return [least, most];
}

/** What the cameras of a chunk see together: `{x, z, from, to}`, from their mean place, `from` not greater than `to`.
 *
 * fov  horizontal field of view, radians
 */
export function sector(cameras, fov) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const angles = [heading(cameras[0])]; // unrolled: two neighbours are never more than half a turn apart
  for (const camera of cameras.slice(1)) angles.push(angles.at(-1) + wrapped(heading(camera) - angles.at(-1)));
  const [from, to] = [Math.min(...angles) - fov / 2, Math.max(...angles) + fov / 2];
  const [x, z] = [0, 1].map((axis) => mean(cameras.map((camera) => place(camera)[axis])));
  return { x, z, from, to: Math.min(to, from + 2 * Math.PI) };
}

/** Corners of a sector, its tip first, as far as it reaches. */
export function corners({ x, z, from, to }, reach) {
  const count = Math.max(2, Math.ceil((to - from) / CORNER));
  const arc = Array.from({ length: count + 1 }, (_, n) => from + ((to - from) * n) / count);
  return [[x, z], ...arc.map((angle) => [x + reach * Math.sin(angle), z + reach * Math.cos(angle)])];
}

/** The middle of a sector's arc. */
export function summit({ x, z, from, to }, reach) {
  const angle = (from + to) / 2;
  return [x + reach * Math.sin(angle), z + reach * Math.cos(angle)];
}

/** The outline of corners, as SVG writes it. */
export function outline(points) {
  return `M${points.map(([x, z]) => `${round(x)} ${round(z)}`).join("L")}Z`;
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}

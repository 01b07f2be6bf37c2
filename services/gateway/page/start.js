// What walk a page begins with: by its address, by what this tab did before, or the one for who comes first.

const KEY = "worldkv.walk";

/** Rooms with much to see, and a look round in them. */
const ROOMS = { scene: "rooms:8", tour: "R360", seed: 0 };

/** This tab's walk: `{session, world, request}`; null: it has none. */
export function kept() {
  return JSON.parse(sessionStorage.getItem(KEY) ?? "null");
}

/** Keeps it, so that it goes on when the page is loaded again: the address asks for nothing else any more. */
export function keep(session, world, request) {
  sessionStorage.setItem(KEY, JSON.stringify({ session, world, request }));
  history.replaceState(null, "", location.pathname + location.search);
}

/** Whether scenes are rooms, which have numbers, walls and true pictures. */
export function areRooms(scenes) {
  return scenes.some((scene) => scene.startsWith("rooms:"));
}

/** OpenRequest for who comes first, where worlds can begin as `scenes`. */
export function simplest(scenes) {
  return areRooms(scenes) ? ROOMS : { scene: scenes[0] ?? "", seed: 0 };
}

/** `{open: OpenRequest}`, or `{join: id, watch, request}`, for an address that asks for `wanted`.
 *
 * An address with `watch` looks on; with `session` walks on; with `world` in a world of one's own, forked from there, before
 * chunk `at` if that is given; with `scene` in a new world. With `world` and `scene`, `seed`, `mode`, `selector` and `recalled` say how.
 */
export function first(wanted, simple) {
  if (wanted.has("watch")) return { join: wanted.get("watch"), watch: true, request: {} };
  if (wanted.has("session")) return { join: wanted.get("session"), watch: false, request: {} };
  if (wanted.has("world")) {
    const at = wanted.has("at") ? { at: wanted.get("at") } : {};
    return { open: { world: wanted.get("world"), fork: true, ...at, ...manner(wanted) } };
  }
  if (wanted.has("scene")) {
    const tour = wanted.get("tour") ?? simple.tour ?? "";
    return { open: { scene: wanted.get("scene"), tour, ...manner(wanted) } };
  }
  const before = kept();
  return before ? { join: before.session, watch: false, request: before.request } : { open: simple };
}

function manner(wanted) {
  const settings = {};
  if (wanted.has("selector")) settings.selector = wanted.get("selector");
  if (wanted.has("recalled")) settings.recalled = Number(wanted.get("recalled"));
  const manner = { seed: wanted.get("seed") ?? 0 };
  if (wanted.has("mode")) manner.mode = mode(wanted.get("mode"));
  return Object.keys(settings).length ? { ...manner, settings } : manner;
}

/** MemoryMode of a word: `window`, `full` or `worldkv`, or its whole name. */
function mode(word) {
  return word.startsWith("MEMORY_MODE_") ? word : `MEMORY_MODE_${word.toUpperCase()}`;
}

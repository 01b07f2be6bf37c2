// What walk a page begins with: by its address, by what this tab did before, or the one for who comes first.

/** Where who comes for the first time walks. */
export const FIRST = Object.freeze({ scene: "rooms:8", tour: "R360", seed: 0 });

const KEY = "worldkv.walk";

/** This tab's walk: `{session, world, request}`; null: it has none. */
export function kept() {
  return JSON.parse(sessionStorage.getItem(KEY) ?? "null");
}

/** Keeps it, so that it goes on when the page is loaded again. */
export function keep(session, world, request) {
  sessionStorage.setItem(KEY, JSON.stringify({ session, world, request }));
}

/** `{open: OpenRequest}`, or `{join: id, watch, request}`, for an address that asks for `wanted`.
 *
 * An address with `watch` looks on; with `session` walks on; with `world` begins anew there, before chunk `at` if that is
 * given; with `scene` in a new world. With `world` and `scene`, `seed`, `mode`, `selector` and `recalled` say how.
 */
export function first(wanted) {
  if (wanted.has("watch")) return { join: wanted.get("watch"), watch: true, request: {} };
  if (wanted.has("session")) return { join: wanted.get("session"), watch: false, request: {} };
  if (wanted.has("world")) {
    const at = wanted.has("at") ? { at: wanted.get("at") } : {};
    return { open: { world: wanted.get("world"), ...at, ...manner(wanted) } };
  }
  if (wanted.has("scene")) {
    return { open: { scene: wanted.get("scene"), tour: wanted.get("tour") ?? FIRST.tour, ...manner(wanted) } };
  }
  const before = kept();
  return before ? { join: before.session, watch: false, request: before.request } : { open: FIRST };
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

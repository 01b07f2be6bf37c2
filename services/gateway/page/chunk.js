// What a page knows of one chunk; see `Walk` in state.js.

/** Chunks, the newest, of which pictures are held here; of others the service has them. */
const PICTURED = 2_000;
/** Chunks, the newest, of which the whole message is held. */
const WHOLE = 100;

/** A chunk of which nothing is known but where it was seen from. */
export function chunk(key, poses) {
  return {
    index: key.index, key, poses: poses.map(({ matrix }) => matrix), walker: null, thumbnail: null, state: "kept",
    recalledAt: null, recall: null, missedAt: null, missReason: null, drawn: null, judged: null,
  };
}

/** Lets go of what is held of the newest chunks alone, now that one more is there: a long walk does not hold ever more. */
export function thin(chunks, newest) {
  const [whole, pictured] = [WHOLE, PICTURED].map((count) => chunks.get(newest - count));
  if (whole) whole.drawn = null;
  if (pictured) pictured.thumbnail = null;
}

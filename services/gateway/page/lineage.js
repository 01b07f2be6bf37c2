// Which branch each chunk of a world is read from: `parts` as in the messages, oldest first, the last one open.

/** The branch that is being written. */
export const head = (parts) => parts.at(-1).branch;

/** How many chunks, from the first, are the same in two worlds; infinity: all of them. */
export function shared(one, other) {
  const last = (part) => Number(part?.end) || Infinity;
  const place = one.findIndex((part, n) => part.branch !== other[n]?.branch || last(part) !== last(other[n]));
  if (place < 0) return Infinity;
  if (one[place].branch !== other[place]?.branch) return place ? last(one[place - 1]) : 0;
  return Math.min(last(one[place]), last(other[place]));
}

/** Whether a chunk with this key is one of the world's. */
export function covers(parts, key) {
  const part = parts.find(({ end }, place) => place === parts.length - 1 || key.index < Number(end));
  return part.branch === key.branch;
}

/** The lineage that goes on with a branch from chunk `at` on. */
export function forked(parts, at, branch) {
  const kept = [];
  for (const part of parts) {
    const begin = Number(kept.at(-1)?.end ?? 0);
    const end = Math.min(at, Number(part.end || Infinity));
    if (end > begin) kept.push({ branch: part.branch, end });
  }
  return [...kept, { branch }];
}

// What memory has to do with a chunk, as signs and as words.

import { decibels } from "./words.js";

/** So many chunks after it was recalled, a chunk is not lit any more. */
export const FADES = 8;

const REASONS = {
  MISS_REASON_DELETED: "it had been deleted", MISS_REASON_EVICTED: "it had made room",
  MISS_REASON_CORRUPT: "its bytes were damaged", MISS_REASON_LATE: "it came too late",
  MISS_REASON_TIER_DOWN: "whoever has it did not answer",
};

/** How a chunk stands to the newest one: `{lit, now, missed, demoted, missing}`, `lit` from 1 (recalled for the newest)
 * down to 0. */
export function standing(chunk, newest) {
  const age = chunk.recalledAt === null ? Infinity : newest - chunk.recalledAt;
  const missed = chunk.missedAt !== null && chunk.missedAt > (chunk.recalledAt ?? -1);
  return {
    lit: Math.max(0, 1 - Math.max(0, age) / FADES),
    now: age <= 0,
    missed: missed && newest - chunk.missedAt < FADES,
    demoted: chunk.state === "demoted",
    missing: chunk.state === "missing",
  };
}

/** A chunk in a sentence. */
export function inWords(chunk, newest) {
  return [`Chunk ${chunk.index}`, ...facts(chunk, newest)].join(", ");
}

function facts(chunk, newest) {
  const { lit, now, missed } = standing(chunk, newest);
  const told = [{ demoted: "kept as latents alone", missing: "not kept" }[chunk.state] ?? "kept"];
  if (now) told.push("recalled for the newest picture");
  else if (lit) told.push(`recalled for chunk ${chunk.recalledAt}`);
  if (missed) told.push(`wanted for chunk ${chunk.missedAt}, but ${REASONS[chunk.missReason] ?? "nobody had it"}`);
  if (chunk.judged) told.push(`${decibels(chunk.judged.psnr ?? 0)} against the truth`);
  return told;
}

/** Why a chunk was recalled when it was last: pairs of a name and its value. */
export function reasons({ recall }) {
  if (recall === null) return [];
  const { score = 0, distance = 0, angle = 0, overlap = 0 } = recall;
  return [
    ["Score", score.toFixed(2)],
    ["Distance", `${distance.toFixed(2)} units`],
    ["Angle", `${Math.round(angle)}°`],
    ["Overlap", `${Math.round(100 * overlap)} %`],
  ];
}

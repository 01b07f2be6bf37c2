// The path grammar, as far as this page has to know how long a path is; see worldkv/actions.py.

/** At most, in a latent frame: degrees turned, units walked. */
export const PACE = { turn: 9, step: 0.28 };

const DEFAULTS = { W: 1, S: 1, D: 1, A: 1, U: 30, J: 30, _: 3 };
const TOKEN = /([RLWSDAUJ_])(\d+(?:\.\d+)?)?/g;

/** Chunks of `frames` latent frames that a tour takes; 0 without one. */
export function tourChunks(path, frames) {
  if (!path) return 0;
  const tokens = [...path.matchAll(TOKEN)].map(([, letter, number]) => ({ letter, number }));
  const turns = tokens.filter(({ letter }) => "RL".includes(letter));
  const turn = Number(turns.at(-1)?.number ?? 90);
  let total = 1; // where it begins
  for (const { letter, number } of tokens) {
    const amount = Number(number ?? ("RL".includes(letter) ? turn : DEFAULTS[letter]));
    if (letter === "_") total += Math.round(amount);
    else total += Math.max(1, Math.ceil(amount / ("WSDA".includes(letter) ? PACE.step : PACE.turn) - 1e-9));
  }
  return Math.ceil(total / frames);
}

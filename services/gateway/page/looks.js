// What a page did not see drawn itself: chunks of a walk looked at again, once for all views of it.

/** Pixels of a thumbnail's height that the service is asked for. */
const HEIGHT = 72;
/** Chunks whose pictures are asked for at once. */
const TOGETHER = 32;

const KNOWN = new WeakMap();

/** The looks of a walk. */
export function looksOf(walk) {
  if (!KNOWN.has(walk)) KNOWN.set(walk, new Looks(walk));
  return KNOWN.get(walk);
}

/** Asks the service for what the walk does not know, and makes the walk learn it.
 *
 * Event "learned" when there is something new.
 */
class Looks extends EventTarget {
  #walk;
  #wanted = new Set();
  #asked = new Set();
  #busy = false;

  constructor(walk) {
    super();
    this.#walk = walk;
    walk.addEventListener("joined", () => this.#places());
    walk.addEventListener("opened", () => this.#forget());
    walk.addEventListener("rewound", () => this.#forget());
  }

  /** Wants a chunk's picture, sooner or later. */
  want(index) {
    const chunk = this.#walk.chunks.get(index);
    if (chunk?.thumbnail || this.#asked.has(index)) return;
    this.#wanted.add(index);
    this.#next();
  }

  #forget() {
    this.#wanted.clear();
    this.#asked.clear();
  }

  /** Where the chunks before this page came were seen from. */
  async #places() {
    const { chunks, safe, next } = this.#walk;
    const end = Math.max(safe, next);
    const missing = Array.from({ length: end }, (_, index) => index).find((index) => !chunks.has(index));
    if (missing === undefined) return;
    await this.#look({ at: missing, count: end - missing, pictures: 0 });
  }

  /** Pictures of the next run of chunks that are wanted. */
  async #next() {
    if (this.#busy || !this.#wanted.size) return;
    this.#busy = true;
    await Promise.resolve(); // whoever wants more says so in one go
    const sorted = [...this.#wanted].sort((a, b) => a - b);
    const at = sorted[0] ?? 0;
    const end = (sorted.filter((index) => index < at + TOGETHER).at(-1) ?? at) + 1;
    for (let index = at; index < end; index += 1) {
      this.#wanted.delete(index);
      this.#asked.add(index);
    }
    await this.#look({ at, count: end - at, pictures: 1, height: HEIGHT });
    this.#busy = false;
    this.#next();
  }

  async #look(range) {
    const { session, service } = this.#walk;
    if (session === null) return;
    let looks;
    try {
      looks = await service.json("/v1/look", { session, ...range });
    } catch (problem) {
      return; // a map without thumbnails is a map; what keeps the service from answering is told by the connection
    }
    if (session !== this.#walk.session) return;
    for (const look of looks) await this.#learn(look);
    this.dispatchEvent(new Event("learned"));
  }

  async #learn({ key, poses, state, pictures = [] }) {
    const index = Number(key.index ?? 0);
    if (index >= this.#walk.next) return;
    const thumbnail = pictures.length ? blobOf(pictures[0]) : null;
    this.#walk.learn({ key: { ...key, index }, poses, state }, thumbnail);
  }
}

/** The bytes of a `data:` URL of a JPEG. */
function blobOf(url) {
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
}

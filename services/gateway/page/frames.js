// What travels over the socket; the other side is services/gateway/frames.py.

const HEAD = 4;

/** Types of what is whole numbers beyond 32 bits in the messages: protobuf's JSON writes them as strings. */
const COUNTS = new Set([
  "index", "number", "next", "chunk", "end", "seed", "window", "hot", "queued", "stored", "version", "chunks",
  "recalled", "atHand", "fetchedBytes", "used", "early", "late", "wasted", "unforeseen", "reencoded", "unanswered",
  "abstained", "kvDropped", "neverStored", "evicted", "deleted", "tierDown", "corrupt", "budgetChunks",
]);

/** Raised for bytes that are no frame. */
export class BadFrame extends Error {}

/** A frame: `{kind, value}` with the value of a message, its pictures as Blobs; or `{kind: "reply", value}`.
 *
 * Whole numbers are numbers, and a chunk's key always has its index.
 */
export function parsed(buffer) {
  if (buffer.byteLength < HEAD) throw new BadFrame(`a frame of ${buffer.byteLength} bytes`);
  const length = new DataView(buffer).getUint32(0);
  if (HEAD + length > buffer.byteLength) throw new BadFrame(`${length} bytes of JSON in ${buffer.byteLength}`);
  let said;
  try {
    said = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEAD, length)), counted);
  } catch (error) {
    throw new BadFrame(error.message);
  }
  if ("reply" in said) return { kind: "reply", value: said };
  const [[kind, value]] = Object.entries(said);
  if (kind === "drawn") value.pictures = cut(buffer, HEAD + length, value.pictures ?? []);
  if (value.key) value.key.index ??= 0;
  return { kind, value };
}

/** What is sent: one message of a client. */
export function framed(kind, message) {
  return JSON.stringify({ [kind]: message });
}

function counted(name, value) {
  return typeof value === "string" && COUNTS.has(name) ? Number(value) : value;
}

function cut(buffer, begin, pictures) {
  let at = begin;
  return pictures.map(({ size = 0 }) => {
    if (at + size > buffer.byteLength) throw new BadFrame(`a picture ends at ${at + size} of ${buffer.byteLength}`);
    const picture = new Blob([new Uint8Array(buffer, at, size)], { type: "image/jpeg" });
    at += size;
    return picture;
  });
}

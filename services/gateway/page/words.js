// What this page says of numbers and chunks.

/** MemoryMode in one word, and what it means. */
export const MODES = {
  MEMORY_MODE_WORLDKV: { name: "WorldKV", means: "recalls what was seen here before" },
  MEMORY_MODE_WINDOW: { name: "Window", means: "knows its newest pictures only" },
  MEMORY_MODE_FULL: { name: "Full", means: "keeps every picture before its eyes" },
};

const AND = new Intl.ListFormat("en", { type: "conjunction" });

/** "chunk 3" or "chunks 3, 4 and 7". */
export function chunks(numbers) {
  return `${numbers.length === 1 ? "chunk" : "chunks"} ${AND.format(numbers.map(String))}`;
}

/** Numbers of the chunks that one was drawn from, besides the newest. */
export function recalledFor(chunk) {
  return (chunk?.drawn?.recalled ?? []).map(({ key }) => key.index).sort((a, b) => a - b);
}

/** Where a camera of 12 numbers (three rows of camera-to-world) stands and looks. */
export function place(matrix) {
  const [x, z] = [matrix[3], matrix[11]].map((value) => value.toFixed(1));
  const yaw = (Math.atan2(matrix[2], matrix[10]) * 180) / Math.PI;
  return `at ${x}, ${z}, looking ${Math.round((yaw + 360) % 360)} degrees`;
}

/** Milliseconds. */
export function milliseconds(value) {
  return value === null ? "–" : `${Math.round(value)} ms`;
}

export function decibels(value) {
  return `${value.toFixed(1)} dB`;
}

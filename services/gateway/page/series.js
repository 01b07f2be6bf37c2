// What is charted of a walk: one row a chunk. Nothing here touches the page.

/** Rows that are kept: older ones leave the charts. */
export const KEPT = 240;

/** Parts of a chunk's time, by the names of StepSeconds, in the order of a step. */
export const PARTS = {
  turn: "its turn", lookup: "index", fetch: "store", decode: "decoding", place: "placing", draw: "the model",
  keep: "keeping", pictures: "pictures",
};

/** Where keys and values are, by the names of HeldBytes. */
export const TIERS = { window: "in the window", hot: "at hand", queued: "on their way", stored: "stored" };

/** What became of recall, for each chunk. */
export const RECALL = { recalled: "recalled", late: "late", missed: "gone", abstained: "abstained" };

/** Rows of a walk's numbers. */
export class Series {
  #abstained = 0;
  rows = [];

  clear() {
    this.rows = [];
    this.#abstained = 0;
  }

  /** Takes a chunk that was drawn; `opened` is its session. Rows of chunks that are drawn once more go. */
  take(drawn, opened) {
    const { seconds = 0, spent = {}, held = {}, counts = {}, missed = [], recalled = [], leftOut = 0 } = drawn;
    const late = missed.filter(({ reason }) => reason === "MISS_REASON_LATE").length;
    const abstained = counts.abstained ?? 0;
    const row = {
      chunk: drawn.key.index,
      seconds,
      fps: seconds > 0 ? (opened.pictures ?? 0) / seconds : null,
      played: opened.picturesPerSecond ?? null,
      spent: picked(PARTS, spent),
      held: picked(TIERS, held),
      recall: {
        recalled: recalled.length,
        late: missed.length ? late : leftOut,
        missed: missed.length - late,
        abstained: Math.max(0, abstained - this.#abstained),
      },
    };
    this.#abstained = abstained;
    this.rewind(row.chunk);
    this.rows = [...this.rows, row].slice(-KEPT);
    return row;
  }

  /** Chunks from `at` on are drawn anew. */
  rewind(at) {
    this.rows = this.rows.filter(({ chunk }) => chunk < at);
  }
}

/** Columns of a stack: each added to those below it, the first at the bottom. */
export function stacked(columns) {
  let below = null;
  return columns.map((column) => (below = column.map((value, place) => value + (below?.[place] ?? 0))));
}

function picked(names, values) {
  return Object.fromEntries(Object.keys(names).map((name) => [name, Number(values[name] ?? 0)]));
}

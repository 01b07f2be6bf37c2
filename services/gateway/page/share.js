// What of a walk can be given to others: links, a film, the world as a file.

import { made } from "./made.js";

/** Settings of a walk that a link to its world repeats. */
const REPEATED = { mode: "mode", selector: "selector", recalled: "recalled" };

/** Why something cannot be had, in words, by status. */
const REFUSED = {
  UNIMPLEMENTED: "This service does not offer it.",
  NOT_FOUND: "There is nothing of it kept yet. Walk a little, and try again.",
  PERMISSION_DENIED: "Your token does not allow it.",
  UNAUTHENTICATED: "This service wants a token for it.",
};

/** Links, film and export of one walk. */
export class Share {
  #walk;
  #link = made("input", { type: "text", readonly: true, "aria-label": "Link", hidden: true, onfocus: ({ target }) => target.select() });
  #status = made("p", { role: "status" });
  #buttons = {};
  #begun = null;

  constructor(element, walk) {
    this.#walk = walk;
    element.classList.add("share");
    const button = (name, words, title, onclick) =>
      (this.#buttons[name] = made("button", { type: "button", title, onclick: () => this.#do(name, onclick) }, words));
    const links = made("div", { role: "group", "aria-label": "Links" },
      button("world", "Link to this place", "Who opens it walks in the same world, from the same place", () => this.#shared("world")),
      button("watch", "Link to watch", "Who opens it sees this walk, and can do nothing else", () => this.#shared("watch")));
    const files = made("div", { role: "group", "aria-label": "Files" },
      button("record", "Record", "From now on, until you press again: then it is a film", () => this.#record()),
      button("film", "Film of it all", "Everything that is kept of this walk, as MP4", () => this.#film(0, 0)),
      button("export", "Export the world", "As a file, for another service or another day", () => this.#export()));
    element.replaceChildren(links, this.#link, files, this.#status);
    for (const name of ["opened", "joined", "up", "down", "ended", "drawn", "rewound", "applied", "remembered"]) {
      walk.addEventListener(name, () => this.#offer());
    }
    walk.addEventListener("opened", () => this.#clear());
    this.#offer();
  }

  #clear() {
    this.#begun = null;
    this.#link.hidden = true;
    this.#say("", "");
  }

  /** What can be had now. */
  #offer() {
    const { opened, watching, safe, memory } = this.#walk;
    const keeps = (memory?.mode ?? "MEMORY_MODE_WORLDKV") === "MEMORY_MODE_WORLDKV";
    const { world, watch, record, film, export: file } = this.#buttons;
    watch.disabled = !opened?.watch;
    world.disabled = file.disabled = !opened || watching || !keeps;
    film.disabled = !opened || !keeps || !safe;
    record.disabled = !opened || !keeps;
    record.setAttribute("aria-pressed", this.#begun !== null);
    const drawn = this.#begun === null ? 0 : Math.max(0, this.#walk.next - this.#begun);
    record.textContent = this.#begun === null ? "Record" : `Stop, ${drawn} ${drawn === 1 ? "chunk" : "chunks"}`;
    if (opened && !keeps) this.#say("", "This way of remembering keeps nothing: there is no world to share, nor a film of it.");
  }

  /** Does what a button is for, and says what came of it. */
  async #do(name, work) {
    const button = this.#buttons[name];
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      this.#say("well", await work());
    } catch (problem) {
      this.#say("refused", REFUSED[problem.status] ?? problem.words ?? problem.message);
    }
    button.removeAttribute("aria-busy");
    this.#offer();
  }

  async #shared(kind) {
    const { session, service, safe } = this.#walk;
    const { fragment, expires } = await service.post("/v1/share", { session, kind, ...(kind === "world" && { at: safe }) });
    const url = new URL("/", service.base);
    url.hash = kind === "world" ? this.#repeating(fragment) : fragment;
    this.#link.value = url.href;
    this.#link.hidden = false;
    const until = expires ? ` It works until ${new Date(1000 * expires).toLocaleString()}.` : "";
    return (await copied(url.href)) ? `Copied.${until}` : `There it is.${until}`;
  }

  /** A fragment with how this walk remembers, so that another begins alike. */
  #repeating(fragment) {
    const given = new URLSearchParams(fragment);
    const { memory, opened } = this.#walk;
    for (const [name, field] of Object.entries(REPEATED)) {
      if (!given.has(name) && memory?.[field] !== undefined) given.set(name, memory[field]);
    }
    if (!given.has("seed")) given.set("seed", opened.seed ?? 0);
    return `${given}`;
  }

  async #record() {
    if (this.#begun === null) {
      this.#begun = this.#walk.next;
      return "Recording. Press again to stop.";
    }
    const at = this.#begun;
    const end = this.#walk.next;
    this.#begun = null;
    if (end <= at) return "Nothing was drawn meanwhile.";
    await this.#kept(end);
    return this.#film(at, end - at);
  }

  /** Waits until chunks before `end` are kept: films are made of what is. */
  #kept(end) {
    this.#say("", "Waiting until it is kept …");
    return new Promise((resolve) => {
      const look = () => {
        if (this.#walk.safe < end && this.#walk.up && this.#walk.next >= end) return;
        for (const name of NEWS) this.#walk.removeEventListener(name, look);
        resolve();
      };
      for (const name of NEWS) this.#walk.addEventListener(name, look);
      look();
    });
  }

  async #film(at, count) {
    this.#say("", "Making the film …");
    const { session, service, world } = this.#walk;
    const answer = await service.ask("/v1/film", { session, at, count });
    return saved(await answer.blob(), `${fileName(world)}.mp4`);
  }

  async #export() {
    this.#say("", "Collecting the world …");
    const { service, world } = this.#walk;
    const answer = await service.ask("/v1/export", { world });
    return saved(await answer.blob(), `${fileName(world)}.worldkv`);
  }

  #say(state, text) {
    this.#status.dataset.state = state;
    this.#status.textContent = text;
  }
}

/** What may change whether a chunk is kept. */
const NEWS = ["remembered", "down", "ended", "rewound", "opened"];

/** A world's name as a file may be called. */
function fileName(world) {
  return (world ?? "walk").replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 80) || "walk";
}

/** Hands a file to the reader; answers what to say. */
function saved(blob, name) {
  const url = URL.createObjectURL(blob);
  made("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return `${name} is yours, ${(blob.size / 1e6).toFixed(1)} MB.`;
}

/** Whether a text could be put on the clipboard. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not allowed, or the page did not come over a safe line
  }
}

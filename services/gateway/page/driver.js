// Brings a wish to the walks: held while one walks alone, chunk by chunk where two walks keep step or the mouse looks.

import { STILL } from "./keys.js";
import { PACE } from "./tour.js";

/** Degrees a latent frame that one looks up or down, held; and the most that the mouse is given. */
const LOOK = 6;
/** Degrees that are too few to draw a chunk for. */
const LEAST = 0.5;
/** Seconds before the last picture is shown that the next chunk is asked for, besides what a chunk takes. */
const MARGIN = 0.04;

/** Drives one pane, or several in step.
 *
 * panes  each with a `walk`, a `player` and a `latency`
 *
 * Event "changed" when it pauses, or does not any more.
 */
export class Driver extends EventTarget {
  #wish = STILL;
  #since = null; // when what is wished was wished, until it is sent
  #look = { turn: 0, look: 0 };
  #script = [];
  #last = action({ ...STILL, turn: -1 });
  #held = null;
  #moving = null;
  #takes = 0.15;
  #timer = null;
  #paused = false;
  #panes = [];

  constructor(keys) {
    super();
    keys.addEventListener("wish", ({ detail }) => this.#wished(detail));
    keys.addEventListener("press", ({ detail }) => this.#pressed(detail));
    keys.addEventListener("look", ({ detail }) => this.#looked(detail));
  }

  get panes() {
    return this.#panes;
  }

  set panes(panes) {
    this.#panes = panes;
    this.forget();
  }

  get paused() {
    return this.#paused;
  }

  set paused(paused) {
    if (paused === this.#paused) return;
    this.#paused = paused;
    for (const { player } of this.#panes) player.paused = paused;
    if (paused) {
      this.#script = [];
      this.#stop();
    } else {
      this.#act();
    }
    this.dispatchEvent(new Event("changed"));
  }

  /** Nothing is under way: the walks are others, or were taken back. */
  forget() {
    clearTimeout(this.#timer);
    this.#held = null;
    this.#script = [];
    this.#look = { turn: 0, look: 0 };
    this.#moving = null;
    for (const { player } of this.#panes) player.paused = this.#paused;
  }

  /** What is held goes on being held, on another connection or from another place. */
  resume() {
    this.#held = null;
    this.#since ??= this.#panes[0]?.latency.waiting ?? null; // it is said anew, under another number
    this.#act();
  }

  /** Whether the walks can be led. */
  get #able() {
    return this.#panes.length > 0 && this.#panes.every(({ walk }) => walk.opened !== null && !walk.watching);
  }

  /** Draws a single chunk of what was done last. */
  step() {
    if (!this.#able) return;
    for (const { player } of this.#panes) player.paused = false;
    if (!this.#moving) this.#move([this.#last]);
  }

  /** Turns once round, unless a key says otherwise. */
  turnRound() {
    const frames = this.#panes[0]?.walk.opened?.frames ?? 1;
    this.paused = false;
    this.#since = performance.now();
    this.#script = Array(Math.ceil(360 / (PACE.turn * frames))).fill([{ turn: -PACE.turn }]);
    this.#act();
  }

  #wished({ wish, at }) {
    this.#wish = wish;
    this.#since = still(wish) ? null : at;
    if (!still(wish)) {
      this.#last = action(wish);
      this.#script = [];
    }
    this.#act();
  }

  #pressed({ wish, at }) {
    if (!this.#paused) return;
    this.#last = action(wish);
    this.#since = at;
    this.step();
  }

  #looked({ turn, look, at }) {
    if (this.#paused) return;
    this.#look.turn += turn;
    this.#look.look += look;
    this.#script = [];
    this.#since = at;
    this.#act();
  }

  get #looks() {
    return Math.abs(this.#look.turn) > LEAST || Math.abs(this.#look.look) > LEAST;
  }

  #act() {
    if (this.#paused || !this.#able) return;
    const walks = !still(this.#wish);
    if (this.#looks || this.#script.length || (walks && this.#panes.length > 1)) this.#next();
    else if (walks && !this.#moving) this.#hold();
    else if (!walks) this.#stop();
  }

  #hold() {
    const wanted = action(this.#wish);
    const said = JSON.stringify(wanted);
    if (said === this.#held) return;
    this.#held = said;
    for (const { walk } of this.#panes) walk.hold(wanted);
    this.#measure();
  }

  #stop() {
    if (this.#held === null) return;
    this.#held = null;
    for (const { walk } of this.#panes) walk.pause();
  }

  /** Asks for the next chunk just before the last one has been shown: so it is of the newest wish. */
  #next() {
    clearTimeout(this.#timer);
    if (this.#moving) return;
    const remaining = Math.max(...this.#panes.map(({ player }) => player.remaining));
    const early = remaining - this.#takes - MARGIN;
    if (early > 0) this.#timer = setTimeout(() => this.#act(), 1000 * early);
    else this.#move(this.#script.shift() ?? this.#actions());
  }

  async #move(actions) {
    const asked = performance.now();
    const moving = (this.#moving = {});
    this.#held = null; // a move ends what is held
    const moves = this.#panes.map(({ walk }) => walk.move(actions));
    this.#measure();
    try {
      await Promise.all(moves);
    } catch {
      if (moving === this.#moving) this.forget(); // why is told where the connection is
      return;
    }
    if (moving !== this.#moving) return;
    this.#takes = 0.7 * this.#takes + 0.3 * Math.min(1, (performance.now() - asked) / 1000);
    this.#moving = null;
    this.#act();
  }

  /** What was just sent is the first that does what was wished. */
  #measure() {
    if (this.#since === null) return;
    for (const { walk, latency } of this.#panes) latency.asked(walk.number, this.#since);
    this.#since = null;
  }

  /** What is wished and looked for, a latent frame each. */
  #actions() {
    const frames = this.#panes[0].walk.opened?.frames ?? 1;
    const wanted = { ...STILL, ...action(this.#wish) };
    return Array.from({ length: frames }, (_, place) => {
      const left = frames - place;
      const turn = clamp(this.#look.turn / left, PACE.turn);
      const look = clamp(this.#look.look / left, LOOK);
      this.#look.turn -= turn;
      this.#look.look -= look;
      if (left === 1) this.#look = { turn: settled(this.#look.turn), look: settled(this.#look.look) };
      return { ...wanted, turn: clamp(wanted.turn + turn, PACE.turn), look: clamp(wanted.look + look, LOOK) };
    });
  }
}

/** The action of a wish, in units and degrees a latent frame. */
export function action({ forward, strafe, turn, look }) {
  const slower = PACE.step / Math.max(1, Math.hypot(forward, strafe));
  const whole = { forward: forward * slower, strafe: strafe * slower, turn: turn * PACE.turn, look: look * LOOK };
  return Object.fromEntries(Object.entries(whole).filter(([, value]) => value !== 0));
}

function still(wish) {
  return Object.values(wish).every((value) => value === 0);
}

function clamp(value, most) {
  return Math.max(-most, Math.min(most, value));
}

/** Who flings the mouse is not made dizzy for long: of what is left a chunk or two are turned. */
function settled(left) {
  return clamp(left, 5 * PACE.turn);
}

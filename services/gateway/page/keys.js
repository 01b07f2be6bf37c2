// What a person wants: keys, mouse and touch, as one wish.

/** What keys wish, by their place on the keyboard; each axis is from -1 to 1. */
const AXES = {
  KeyW: { forward: 1 }, ArrowUp: { forward: 1 }, KeyS: { forward: -1 }, ArrowDown: { forward: -1 },
  KeyA: { strafe: -1 }, KeyD: { strafe: 1 },
  ArrowLeft: { turn: -1 }, KeyQ: { turn: -1 }, ArrowRight: { turn: 1 }, KeyE: { turn: 1 },
  PageUp: { look: 1 }, KeyR: { look: 1 }, PageDown: { look: -1 }, KeyF: { look: -1 },
};

const COMMANDS = {
  " ": "pause", ".": "step", "?": "help", Home: "reset", n: "worlds", c: "compare", t: "round",
};

/** Where keys mean something else. */
const ELSEWHERE = "input, select, textarea, dialog, [contenteditable], [data-keys='own']";
/** Where space and return press. */
const PRESSED = "button, a, summary, [role='button']";

/** Degrees a pixel. */
const MOUSE = 0.2;
const TOUCH = 0.3;
/** Of the way to its rim, a stick that is nearer to its middle is not meant. */
const DEAD = 0.2;

export const STILL = Object.freeze({ forward: 0, strafe: 0, turn: 0, look: 0 });

/** Events
 *   "wish"     `{wish, at}`: what is held has changed; `at` is a time stamp
 *   "press"    `{wish, at}`: a key that moves went down
 *   "look"     `{turn, look, at}`: degrees that the mouse or a finger asks for
 *   "command"  `{name}`: pause, step, help, reset, worlds, compare or round
 */
export class Keys extends EventTarget {
  #down = new Set();
  #stick = { forward: 0, strafe: 0 };
  #wish = STILL;

  constructor(stage, stick) {
    super();
    window.addEventListener("keydown", (event) => this.#pressed(event));
    window.addEventListener("keyup", (event) => this.#released(event));
    window.addEventListener("blur", (event) => this.release(event.timeStamp));
    document.addEventListener("visibilitychange", (event) => document.hidden && this.release(event.timeStamp));
    document.addEventListener("focusin", (event) => event.target.closest?.(ELSEWHERE) && this.release(event.timeStamp));
    this.#dragging(stage);
    this.#sticking(stick);
  }

  get wish() {
    return this.#wish;
  }

  /** Nothing is held any more. */
  release(at = performance.now()) {
    this.#down.clear();
    this.#stick = { forward: 0, strafe: 0 };
    this.#changed(at);
  }

  #pressed(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(ELSEWHERE)) {
      return;
    }
    if (event.code in AXES) {
      event.preventDefault();
      if (event.repeat) return;
      this.#down.add(event.code);
      this.#changed(event.timeStamp);
      this.#tell("press", { wish: wished([event.code]), at: event.timeStamp });
      return;
    }
    const name = COMMANDS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (name && !event.repeat && !(event.key === " " && event.target.closest?.(PRESSED))) {
      event.preventDefault();
      this.#tell("command", { name });
    }
  }

  #released(event) {
    if (this.#down.delete(event.code)) this.#changed(event.timeStamp);
  }

  #changed(at) {
    const wish = wished(this.#down, this.#stick);
    if (Object.keys(STILL).every((axis) => wish[axis] === this.#wish[axis])) return;
    this.#wish = wish;
    this.#tell("wish", { wish, at });
  }

  #dragging(stage) {
    let last = null;
    const looked = (x, y, degrees, at) => this.#tell("look", { turn: x * degrees, look: -y * degrees, at });
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest("button, a, .stick")) return;
      stage.setPointerCapture(event.pointerId);
      last = event;
    });
    stage.addEventListener("pointermove", (event) => {
      if (document.pointerLockElement === stage) {
        looked(event.movementX, event.movementY, MOUSE, event.timeStamp);
      } else if (last?.pointerId === event.pointerId) {
        const degrees = event.pointerType === "mouse" ? MOUSE : TOUCH;
        looked(event.clientX - last.clientX, event.clientY - last.clientY, degrees, event.timeStamp);
        last = event;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (last = null));
    stage.addEventListener("dblclick", (event) => {
      if (event.target.closest("button, a, .stick")) return;
      stage.requestPointerLock?.()?.catch(() => {}); // where the browser does not want to, one drags
    });
  }

  #sticking(stick) {
    const moved = (event) => {
      const { left, top, width, height } = stick.getBoundingClientRect();
      const x = clamp((event.clientX - left) / width * 2 - 1);
      const y = clamp((event.clientY - top) / height * 2 - 1);
      stick.style.setProperty("--x", x);
      stick.style.setProperty("--y", y);
      this.#stick = { forward: stepped(-y), strafe: stepped(x) };
      this.#changed(event.timeStamp);
    };
    stick.addEventListener("pointerdown", (event) => {
      stick.setPointerCapture(event.pointerId);
      event.preventDefault();
      moved(event);
    });
    stick.addEventListener("pointermove", (event) => stick.hasPointerCapture(event.pointerId) && moved(event));
    for (const end of ["pointerup", "pointercancel"]) {
      stick.addEventListener(end, (event) => {
        stick.style.setProperty("--x", 0);
        stick.style.setProperty("--y", 0);
        this.#stick = { forward: 0, strafe: 0 };
        this.#changed(event.timeStamp);
      });
    }
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** The wish of what is held: opposite keys wish nothing. */
export function wished(codes, stick = STILL) {
  const wish = { ...STILL, ...stick };
  for (const code of codes) for (const [axis, value] of Object.entries(AXES[code])) wish[axis] += value;
  return Object.fromEntries(Object.entries(wish).map(([axis, value]) => [axis, clamp(value)]));
}

function clamp(value, most = 1) {
  return Math.max(-most, Math.min(most, value));
}

/** In few steps, so that a finger that trembles asks for nothing new. */
function stepped(value) {
  return Math.abs(value) < DEAD ? 0 : Math.round(value * 4) / 4;
}

// One socket to one session, kept up: what is lost with it is said again, and nothing has an effect twice.

import { framed, parsed } from "./frames.js";
import { Problem } from "./problems.js";

/** Milliseconds between two tries; each wait is twice as long as the one before it. */
const FIRST_WAIT = 100;
const LONGEST_WAIT = 5_000;
/** Milliseconds after which an answer is looked for on a new socket. */
const SILENCE = 60_000;
/** Milliseconds that a last word has to be answered. */
const PARTING = 10_000;

/** Speaks with a session until it ends.
 *
 * begin    gives the first message of every socket: `["open", {...}]` or `["join", {...}]`
 * heard    is given every answer, in order
 * changed  is told "up"; "down" with the Problem, and tries on; "ended" with the Problem, and does not
 *
 * What is sent with a number is sent again on every new socket until `answered` is called with it.
 */
export class Connection {
  #service;
  #begin;
  #heard;
  #changed;
  #socket = null;
  #unanswered = new Map();
  #wait = FIRST_WAIT;
  #retry = null;
  #silent = null;
  #over = false;
  #isUp = false;
  #online = () => this.again();

  constructor(service, { begin, heard, changed }) {
    this.#service = service;
    this.#begin = begin;
    this.#heard = heard;
    this.#changed = changed;
    window.addEventListener("online", this.#online);
    this.#connect();
  }

  /** Whether messages go out at once. */
  get up() {
    return this.#isUp;
  }

  /** Sends a message; one with a number again and again, until it is answered. */
  send(kind, message) {
    if (this.#over) return;
    if (message.number) this.#unanswered.set(message.number, [kind, message]);
    this.#say(kind, message);
    this.#watch();
  }

  /** These need not be sent again. */
  answered(...numbers) {
    for (const number of numbers) this.#unanswered.delete(number);
    this.#watch();
  }

  /** Nothing that was said so far is said again. */
  forget() {
    this.#unanswered.clear();
  }

  /** Try at once. */
  again() {
    if (this.#over || this.#isUp) return;
    this.#wait = FIRST_WAIT;
    this.#connect();
  }

  /** Ask again on a new socket for what comes after the chunks that were seen. */
  rejoin() {
    if (!this.#over) this.#connect();
  }

  /** Say one thing more, and hear nothing: the socket closes when the service has done it, and closes its end. */
  part(kind, message) {
    const socket = this.#socket;
    this.#say(kind, message);
    this.#socket = null;
    socket.onmessage = socket.onclose = null;
    setTimeout(() => socket.close(), PARTING);
    this.end();
  }

  /** Say and hear nothing any more. */
  end() {
    this.#over = true;
    this.#isUp = false;
    this.#drop();
    clearTimeout(this.#retry);
    clearTimeout(this.#silent);
    window.removeEventListener("online", this.#online);
  }

  #connect() {
    clearTimeout(this.#retry);
    this.#drop();
    const socket = (this.#socket = this.#service.socket());
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(framed(...this.#begin()));
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = (event) => this.#closed(Problem.closed(event));
  }

  #drop() {
    if (this.#socket === null) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #say(kind, message) {
    if (this.#isUp) this.#socket.send(framed(kind, message));
  }

  #hear(data) {
    const { kind, value } = parsed(data);
    if (kind === "joined") {
      this.#isUp = true;
      this.#changed("up");
      for (const [said, message] of [...this.#unanswered.values()]) this.#say(said, message);
    } else if (kind === "drawn" || kind === "applied") {
      this.#wait = FIRST_WAIT; // a join alone does not tell that what is said does not break the next socket too
    }
    this.#heard(kind, value);
    this.#watch();
  }

  async #closed(problem) {
    this.#isUp = false;
    this.#socket = null;
    clearTimeout(this.#silent);
    const why = problem.status === "ABSENT" ? await this.#diagnosed(problem) : problem;
    if (this.#over || this.#socket !== null) return; // ended, or tried again, meanwhile
    if (!why.passing) {
      this.end();
      this.#changed("ended", why);
      return;
    }
    const wait = this.#wait * (0.5 + Math.random() / 2);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
    this.#retry = setTimeout(() => this.#connect(), wait);
    this.#changed("down", why);
  }

  /** Why there is no socket: browsers do not tell, but the service may. */
  async #diagnosed(problem) {
    try {
      await this.#service.about();
    } catch (error) {
      if (["UNAUTHENTICATED", "PERMISSION_DENIED", "VERSION"].includes(error.status)) return error;
    }
    return problem;
  }

  /** From now on silence is measured, if something is waited for. */
  #watch() {
    clearTimeout(this.#silent);
    if (this.#isUp && this.#unanswered.size) {
      this.#silent = setTimeout(() => {
        this.#drop();
        this.#closed(new Problem("ABSENT", "The service has been silent for a minute."));
      }, SILENCE);
    }
  }
}

// What can go wrong between this page and the service, in words, each with a way on.

/** What the gateway closes a socket with is this and the number of a status. */
const CLOSE_CODE = 4000;

const STATUS = {
  3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED",
  8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 10: "ABORTED", 12: "UNIMPLEMENTED", 13: "INTERNAL",
  14: "UNAVAILABLE", 15: "DATA_LOSS", 16: "UNAUTHENTICATED",
};

const BY_HTTP = {
  400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
  429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
};

/** Why something did not work.
 *
 * status  name of the gRPC status; or ABSENT: there is no connection; VERSION: page and service do not speak the same
 *         messages; NO_SECOND: a walk to compare with has ended
 * words   the service's own
 */
export class Problem extends Error {
  constructor(status, words = "") {
    super(words || status);
    this.name = "Problem";
    this.status = status;
    this.words = words;
  }

  /** Of an answer over HTTP that is no success. */
  static async of(response) {
    const text = await response.text();
    let said = {};
    try {
      said = JSON.parse(text);
    } catch {
      // a proxy's page, say: its status tells enough
    }
    const status = said.status ?? BY_HTTP[response.status] ?? "UNKNOWN";
    return new Problem(status, said.words ?? `The service answers ${response.status} ${response.statusText}.`);
  }

  /** Of a socket that closed; ABSENT: it never opened, or broke. */
  static closed(event) {
    const status = STATUS[event.code - CLOSE_CODE];
    return status ? new Problem(status, event.reason) : new Problem("ABSENT", event.reason);
  }

  /** Whether the same may work in a moment. */
  get passing() {
    return ["ABSENT", "UNAVAILABLE", "DEADLINE_EXCEEDED"].includes(this.status);
  }
}

/** The ways on that a problem may offer. */
export const WAYS = {
  again: "Try again",
  takeBack: "Walk on here",
  last: "Go to the world's last picture",
  anew: "Begin a new walk",
  reload: "Reload the page",
  alone: "Walk on alone",
};

const TOLD = {
  ABSENT: ["The connection is lost", "Your walk waits. Looking for the service again …", ["again"]],
  UNAVAILABLE: ["The service cannot draw just now", "Your walk waits. Trying again …", ["again", "anew"]],
  DEADLINE_EXCEEDED: ["The service takes too long", "Trying again …", ["again", "anew"]],
  RESOURCE_EXHAUSTED: ["The service is full", "As many people walk as it can draw for. Places free up.", ["again"]],
  NOT_FOUND: ["This walk is gone", "Nobody knows it any more, or the link is not right. Its world may still be there.",
    ["last", "anew"]],
  ABORTED: ["Someone else walks on here", "This walk was taken over in another window.", ["takeBack", "anew"]],
  UNAUTHENTICATED: ["You need a link with a token", "This service is not open to everybody. Ask whoever runs it.",
    ["again"]],
  PERMISSION_DENIED: ["That is not yours to see", "Your token does not open this.", ["anew"]],
  INVALID_ARGUMENT: ["The service did not understand", "", ["anew"]],
  NO_SECOND: ["There is no second picture", "To compare takes room for two walks.", ["alone"]],
  VERSION: ["This page is out of date", "The service has been changed since it was loaded.", ["reload"]],
};

/** A problem for people: its title, what it means, and names of ways on. */
export function told(problem, { world = null, joined = true } = {}) {
  const fallback = ["The walk has ended", "", ["again", "anew"]];
  const [title, meaning, ways] = TOLD[problem.status] ?? fallback;
  if (problem.status === "ABSENT" && !joined) {
    return { title: "The service does not answer", meaning: "Looking for it again …", ways };
  }
  return { title, meaning, ways: world === null ? ways.filter((way) => way !== "last") : ways };
}

// The service behind this page: its addresses, and as whom it is asked.

import { Problem } from "./problems.js";

/** Of the messages that this page speaks. */
const PROTOCOL = 1;
/** Milliseconds that the service has to say what it is. */
const PATIENCE = 3_000;

const TOKEN_KEY = "worldkv.token";

/** Where the gateway is, and what shows it who asks.
 *
 * token   opens what is not open to everybody; null: none was given
 * tenant  whose worlds, where tokens do not say it; null: the service's default
 */
export class Service {
  constructor(base = location, token = null, tenant = null) {
    this.base = new URL("/", base);
    this.token = token;
    this.tenant = tenant;
  }

  /** The address of a path, with those of the parameters that are neither null nor undefined. */
  url(path, parameters = {}) {
    const url = new URL(path, this.base);
    const all = this.tenant === null ? parameters : { tenant: this.tenant, ...parameters };
    for (const [name, value] of Object.entries(all)) {
      if (value !== null && value !== undefined) url.searchParams.set(name, value);
    }
    return url;
  }

  /** What the service answers. Rejects with a Problem if it refuses, or is not there. */
  async ask(path, parameters, options = {}) {
    const headers = new Headers(options.headers);
    if (this.token !== null) headers.set("Authorization", `Bearer ${this.token}`);
    let response;
    try {
      response = await fetch(this.url(path, parameters), { cache: "no-store", ...options, headers });
    } catch {
      throw new Problem("UNAVAILABLE", "The service does not answer.");
    }
    if (!response.ok) throw await Problem.of(response);
    return response;
  }

  /** JSON that the service answers. Rejects as `ask` does. */
  async json(path, parameters, options) {
    return (await this.ask(path, parameters, options)).json();
  }

  /** What the service says of itself. Rejects as `ask` does, and if it does not speak as this page does. */
  async about() {
    const about = await this.json("/v1/about", {}, { signal: AbortSignal.timeout(PATIENCE) });
    if (about.protocol === PROTOCOL) return about;
    throw new Problem("VERSION", `The page speaks protocol ${PROTOCOL}, the service ${about.protocol}.`);
  }

  /** Sends JSON, answers JSON. Rejects as `ask` does. */
  post(path, body) {
    const headers = { "Content-Type": "application/json" };
    return this.json(path, {}, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** A socket to walk through. Browsers can set no headers for it: the token travels as a subprotocol. */
  socket() {
    const url = this.url("/v1/walk");
    url.protocol = url.protocol.replace("http", "ws");
    return new WebSocket(url, this.token === null ? [] : ["worldkv.v1", `worldkv.token.${this.token}`]);
  }
}

/** What the page's address asks for, after `#`: its token is kept for this tab and taken out of the address. */
export function asked() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const token = wanted.get("token") ?? sessionStorage.getItem(TOKEN_KEY);
  if (wanted.has("token")) {
    sessionStorage.setItem(TOKEN_KEY, token);
    wanted.delete("token");
    history.replaceState(null, "", `${location.pathname}${location.search}${wanted.size ? `#${wanted}` : ""}`);
  }
  const tenant = new URLSearchParams(location.search).get("tenant");
  return { service: new Service(location, token, tenant), wanted };
}

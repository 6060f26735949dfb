// The control API. The token lies in this tab's memory of the session and goes nowhere but to the box that served this page.

const KEY = 'callbox-token';

export const token = () => sessionStorage.getItem(KEY);
export const keep = (text) => sessionStorage.setItem(KEY, text);
export const forget = () => sessionStorage.removeItem(KEY);

/** An answer that is no success; its message is one sentence of the box. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function headers(more = {}) {
  const held = token();
  return held ? { authorization: `Bearer ${held}`, ...more } : more;
}

async function refused(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Refused(answer.status, problem.detail ?? `the box answers ${answer.status}`);
}

export async function get(path, { also = [], signal } = {}) {
  const answer = await fetch(path, { headers: headers(), signal, cache: 'no-store' });
  if (!answer.ok && !also.includes(answer.status)) throw await refused(answer);
  return answer.json();
}

/** Bytes that take a token, as an address of this tab's own. */
export async function blob(path) {
  const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
  if (!answer.ok) throw await refused(answer);
  return URL.createObjectURL(await answer.blob());
}

export async function text(path) {
  const answer = await fetch(path, { cache: 'no-store' });
  if (!answer.ok) throw await refused(answer);
  return answer.text();
}

/** An order. The key makes one of a click that a bad line sends twice. */
export async function order(method, path, body) {
  const key = method === 'POST' ? { 'idempotency-key': crypto.randomUUID?.() ?? String(Math.random()).slice(2) } : {};
  const kind = body === undefined ? {} : { 'content-type': 'application/json' };
  const answer = await fetch(path, { method, headers: headers({ ...key, ...kind }), body: body && JSON.stringify(body) });
  if (!answer.ok) throw await refused(answer);
  return answer.json();
}

/** HTTP calls to the server: the API key, timeouts, and errors as one line. */
import { signal } from "@preact/signals";
import { keepText, kept } from "./store";

const KEY = "shoal-key";

/** The API key that calls send; empty: none. It is kept in this tab only, until the tab is closed. */
export const key = signal(kept(KEY, "sessionStorage") ?? "");
/** Whether the server requires a key, or has refused the one that was sent. */
export const wantsKey = signal(false);

export function setKey(value: string): void {
  keepText(KEY, value, "sessionStorage");
  key.value = value;
  wantsKey.value = false;
}

/** An error that the server answered with. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** Headers of every call. A key that is not visible ASCII is wrong anyway, and cannot be sent in a header. */
function headers(more: Record<string, string>): Record<string, string> {
  const usable = /^[\x20-\x7e]+$/.test(key.value);
  return usable ? { authorization: `Bearer ${key.value}`, ...more } : more;
}

/** Calls a path of the server, which may stand behind a prefix of a proxy. Throws a Refusal if it answers with an
 * error. */
export async function call(
  path: string,
  init: RequestInit & { headers?: Record<string, string> } = {},
): Promise<Response> {
  const response = await fetch(`.${path}`, { ...init, headers: headers(init.headers ?? {}), cache: "no-store" });
  if (response.status === 401) wantsKey.value = true;
  if (!response.ok) throw new Refusal(await reasonOf(response), response.status);
  return response;
}

/** GET: the answer as JSON. */
export async function ask<T>(path: string, timeoutMs = 10_000): Promise<T> {
  return (await call(path, { signal: AbortSignal.timeout(timeoutMs) })).json() as Promise<T>;
}

/** POST of a JSON body: the answer as JSON. */
export async function post<T>(path: string, body: unknown, timeoutMs = 30_000): Promise<T> {
  const response = await call(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal: AbortSignal.timeout(timeoutMs),
  });
  return response.json() as Promise<T>;
}

/** The message of an error response, which may be in the format of any of the server's protocols. */
async function reasonOf(response: Response): Promise<string> {
  const text = (await response.text().catch(() => "")).slice(0, 2000);
  try {
    const said = JSON.parse(text);
    const error = said.reason ?? said.error?.message ?? said.error ?? said.message;
    if (typeof error === "string") return error;
  } catch {
    // not JSON: for example, a proxy's page
  }
  return `the server answered with status ${response.status}`;
}

/** An error as one line for the user. */
export function lineOf(error: unknown): string {
  if (error instanceof Refusal) return error.message;
  if (error instanceof DOMException && error.name === "TimeoutError") return "the server took too long to answer";
  if (error instanceof TypeError) return "the server does not answer";
  return error instanceof Error ? error.message : String(error);
}

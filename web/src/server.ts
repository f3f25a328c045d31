/** Calls of the server: the key, errors as one line, and whether it answers at all. */
import { signal } from "@preact/signals";
import { keepText, kept } from "./store";

const KEY = "shoal-key";

/** The key that calls carry; empty: none. It is kept until the tab is closed, and nowhere else. */
export const key = signal(kept(KEY, "sessionStorage") ?? "");
/** Whether the server has refused the key, or wants one. */
export const wantsKey = signal(false);

export function setKey(value: string): void {
  keepText(KEY, value, "sessionStorage");
  key.value = value;
  wantsKey.value = false;
}

/** What the server said in the place of an answer. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** Headers of every call. Header values carry no more than visible ASCII: another key is wrong in any case. */
function headers(more: Record<string, string>): Record<string, string> {
  const usable = /^[\x20-\x7e]+$/.test(key.value);
  return usable ? { authorization: `Bearer ${key.value}`, ...more } : more;
}

/** A call whose answer is not an error. */
export async function call(
  path: string,
  init: RequestInit & { headers?: Record<string, string> } = {},
): Promise<Response> {
  const response = await fetch(path, { ...init, headers: headers(init.headers ?? {}), cache: "no-store" });
  if (response.status === 401) wantsKey.value = true;
  if (!response.ok) throw new Refusal(await reasonOf(response), response.status);
  return response;
}

/** The answer of a call as JSON. */
export async function ask<T>(path: string, timeoutMs = 10_000): Promise<T> {
  return (await call(path, { signal: AbortSignal.timeout(timeoutMs) })).json() as Promise<T>;
}

/** The answer to a JSON body. */
export async function post<T>(path: string, body: unknown, timeoutMs = 30_000): Promise<T> {
  const response = await call(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal: AbortSignal.timeout(timeoutMs),
  });
  return response.json() as Promise<T>;
}

/** Errors come in the forms of several protocols. */
async function reasonOf(response: Response): Promise<string> {
  const text = (await response.text().catch(() => "")).slice(0, 2000);
  try {
    const said = JSON.parse(text);
    const error = said.reason ?? said.error?.message ?? said.error ?? said.message;
    if (typeof error === "string") return error;
  } catch {
    // no JSON: a proxy's page, say
  }
  return `the server answered with status ${response.status}`;
}

/** An error as a line for a person. */
export function lineOf(error: unknown): string {
  if (error instanceof Refusal) return error.message;
  if (error instanceof DOMException && error.name === "TimeoutError") return "the server took too long to answer";
  if (error instanceof TypeError) return "the server does not answer";
  return error instanceof Error ? error.message : String(error);
}

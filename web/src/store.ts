/** What this browser keeps: for good, or until the tab is closed. A browser may refuse its store, or it may be full. */

export type Kind = "localStorage" | "sessionStorage";

/** What is kept under a name; null: nothing, or there is no store. */
export function kept(name: string, kind: Kind = "localStorage"): string | null {
  try {
    return window[kind].getItem(name);
  } catch {
    return null; // even to name a refused store is an error
  }
}

/** Keeps a text, and says whether it could. */
export function keepText(name: string, text: string, kind: Kind = "localStorage"): boolean {
  try {
    window[kind].setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

/** Texts that the browser stores, permanently or until the tab is closed. The store may be forbidden or full. */

export type Kind = "localStorage" | "sessionStorage";

/** The text that is stored under a name; null if there is none, or no store. */
export function kept(name: string, kind: Kind = "localStorage"): string | null {
  try {
    return window[kind].getItem(name);
  } catch {
    return null; // accessing a forbidden store throws
  }
}

/** Stores a text; returns whether that succeeded. */
export function keepText(name: string, text: string, kind: Kind = "localStorage"): boolean {
  try {
    window[kind].setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

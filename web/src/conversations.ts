/** Conversations, kept in this browser alone and within bounds. */
import { signal } from "@preact/signals";

export interface Message {
  role: "user" | "assistant";
  content: string;
  /** Data URLs: of questions only. They last until the tab is closed, and are empty then. */
  pictures?: string[];
  /** How it came: of answers only. */
  told?: { tokens: number; seconds: number; requestId: string; end: string };
}

export interface Settings {
  model: string;
  system: string;
  temperature: number;
  top_p: number;
  /** Empty: as many as fit. */
  max_tokens: string;
  /** Empty: drawn by the server. */
  seed: string;
}

export interface Conversation {
  id: string;
  title: string;
  settings: Settings;
  messages: Message[];
}

const STORE = "shoal-conversations";
const MOST = 50;
/** Browsers give a site five million characters or so. */
const MOST_CHARACTERS = 2_000_000;

export const conversations = signal<Conversation[]>(read());
export const openId = signal(conversations.value[0]?.id ?? "");

function read(): Conversation[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return Array.isArray(kept) ? kept.filter(isConversation) : [];
  } catch {
    return [];
  }
}

function isConversation(value: unknown): value is Conversation {
  const one = value as Conversation | null;
  return (
    typeof one?.id === "string" &&
    typeof one.title === "string" &&
    typeof one.settings?.system === "string" &&
    Array.isArray(one.messages) &&
    one.messages.every(
      (message) => typeof message?.content === "string" && (message.pictures === undefined || Array.isArray(message.pictures)),
    )
  );
}

/** Keep them; the oldest go where they are too many or too long. */
export function keep(all: Conversation[]): void {
  conversations.value = all.slice(0, MOST);
  let kept = conversations.value;
  let text = JSON.stringify(kept, withoutPictures);
  while (text.length > MOST_CHARACTERS && kept.length > 1) {
    kept = kept.slice(0, -1);
    text = JSON.stringify(kept, withoutPictures);
  }
  try {
    localStorage.setItem(STORE, text);
  } catch {
    // a full or forbidden store: they last until the tab is closed
  }
}

/** A store holds few of them: what is kept is how many there were. */
function withoutPictures(key: string, value: unknown): unknown {
  return key === "pictures" && Array.isArray(value) ? value.map(() => "") : value;
}

export function change(id: string, edit: (one: Conversation) => Conversation): void {
  keep(conversations.value.map((one) => (one.id === id ? edit(one) : one)));
}

export function begin(model: string): string {
  const id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  const last = conversations.value[0]?.settings;
  const settings = {
    ...(last ?? { system: "", temperature: 0.7, top_p: 1, max_tokens: "", seed: "" }),
    model,
  };
  keep([{ id, title: "New conversation", settings, messages: [] }, ...conversations.value]);
  openId.value = id;
  return id;
}

export function forget(id: string): void {
  keep(conversations.value.filter((one) => one.id !== id));
  if (openId.value === id) openId.value = conversations.value[0]?.id ?? "";
}

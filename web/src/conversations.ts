/** Conversations, stored in this browser only, limited in number and size. */
import { signal } from "@preact/signals";
import { keepText, kept } from "./store";

export interface Message {
  role: "user" | "assistant";
  content: string;
  /** The model's reasoning before an answer; questions have none. It is shown, and never sent to the model again. */
  thoughts?: string;
  /** Data URLs; only questions have them. They are not stored: empty strings once the page has been reloaded. */
  pictures?: string[];
  /** Statistics of an answer; questions have none. */
  told?: { tokens: number; seconds: number; requestId: string; end: string };
}

export interface Settings {
  model: string;
  system: string;
  temperature: number;
  top_p: number;
  /** Empty: as many tokens as fit in the context. */
  max_tokens: string;
  /** Empty: chosen at random by the server. */
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
/** Browsers let a site store about five million characters. */
const MOST_CHARACTERS = 2_000_000;

/** All conversations, the one with the latest message first. */
export const conversations = signal<Conversation[]>(read());
export const openId = signal(conversations.value[0]?.id ?? "");
/** Whether the browser has stored all of them. */
export const areKept = signal(true);
addEventListener("storage", (event) => event.key === STORE && takeFromOtherTab());

function read(): Conversation[] {
  try {
    const found: unknown = JSON.parse(kept(STORE) ?? "[]");
    return Array.isArray(found) ? found.filter(isConversation).slice(0, MOST) : [];
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
    typeof one.settings.model === "string" &&
    Array.isArray(one.messages) &&
    one.messages.every(
      (message) => typeof message?.content === "string" && (message.pictures === undefined || Array.isArray(message.pictures)),
    )
  );
}

/** Takes conversations that another tab stored. Those known here stay unless the other's are longer: they may have
 * pictures, which are never stored. */
function takeFromOtherTab(): void {
  const own = new Map(conversations.value.map((one) => [one.id, one]));
  conversations.value = read().map((one) => {
    const here = own.get(one.id);
    return here !== undefined && here.messages.length >= one.messages.length ? here : one;
  });
}

/** Stores the conversations; those with the oldest messages are dropped when they are too many or too long. */
function keep(all: Conversation[]): void {
  conversations.value = all.slice(0, MOST);
  let fitting = conversations.value;
  let text = JSON.stringify(fitting, withoutPictures);
  while (text.length > MOST_CHARACTERS && fitting.length > 1) {
    fitting = fitting.slice(0, -1);
    text = JSON.stringify(fitting, withoutPictures);
  }
  areKept.value = keepText(STORE, text) && fitting.length === conversations.value.length;
}

/** A JSON replacer that empties pictures, which are too large to store; their number is kept. */
function withoutPictures(key: string, value: unknown): unknown {
  return key === "pictures" && Array.isArray(value) ? value.map(() => "") : value;
}

export function change(id: string, edit: (one: Conversation) => Conversation): void {
  keep(conversations.value.map((one) => (one.id === id ? edit(one) : one)));
}

/** Appends a message to a conversation, and moves that to the front. */
export function add(id: string, message: Message, title?: string): void {
  const one = conversations.value.find((known) => known.id === id);
  if (one === undefined) return; // it was deleted while its answer was streamed
  const longer = { ...one, title: title ?? one.title, messages: [...one.messages, message] };
  keep([longer, ...conversations.value.filter((other) => other.id !== id)]);
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

/** Streaming of chat completions from `/v1/chat/completions`. */
import { call } from "./server";
import type { Message, Settings } from "./conversations";

interface Chunk {
  choices: { delta: { content?: string | null; reasoning_content?: string | null }; finish_reason: string | null }[];
  usage?: { completion_tokens: number } | null;
  error?: { message: string };
}

export interface Progress {
  text: string;
  /** Reasoning of a model that thinks before it answers. */
  thoughts: string;
  tokens: number;
  /** Time since the first token. */
  seconds: number;
}

/** Streams the answer to a conversation, and returns why it ended: the API's `finish_reason`, or "cut off".
 *
 * `requestId` identifies the request in the server's stories. `onProgress` is called with the answer so far for each
 * piece that the network delivers. Throws what `fetch` throws, also when `stop` is signaled.
 */
export async function complete(
  settings: Settings,
  messages: Message[],
  requestId: string,
  stop: AbortSignal,
  onProgress: (progress: Progress) => void,
): Promise<string> {
  const response = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId },
    body: JSON.stringify(bodyOf(settings, messages)),
    signal: stop,
  });
  const progress: Progress = { text: "", thoughts: "", tokens: 0, seconds: 0 };
  let firstMs = 0;
  let reason = "cut off";
  for await (const chunk of chunks(response.body!)) {
    if (chunk.error) throw new Error(chunk.error.message);
    for (const choice of chunk.choices) {
      const { content, reasoning_content: thought } = choice.delta;
      if (content || thought) {
        progress.text += content ?? "";
        progress.thoughts += thought ?? "";
        progress.tokens += 1;
        firstMs ||= performance.now();
      }
      reason = choice.finish_reason ?? reason;
    }
    if (firstMs) progress.seconds = (performance.now() - firstMs) / 1000;
    if (chunk.usage) progress.tokens = chunk.usage.completion_tokens;
    onProgress({ ...progress });
  }
  return reason;
}

function bodyOf(settings: Settings, messages: Message[]) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  return {
    model: settings.model,
    messages: [...system, ...turns(messages).map(({ role, content, pictures }) => ({ role, content: contentOf(content, pictures) }))],
    temperature: settings.temperature,
    top_p: settings.top_p,
    ...(isCount(settings.max_tokens) && { max_tokens: Number(settings.max_tokens) }),
    ...(isCount(settings.seed) && { seed: Number(settings.seed) }),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** The messages to send. Unanswered questions are joined: many chat templates require alternating roles. */
function turns(messages: Message[]): Message[] {
  return messages.reduce<Message[]>((before, message) => {
    const last = before.at(-1);
    if (last?.role !== "user" || message.role !== "user") return [...before, message];
    const pictures = [...(last.pictures ?? []), ...(message.pictures ?? [])];
    return [...before.slice(0, -1), { role: "user", content: `${last.content}\n\n${message.content}`, pictures }];
  }, []);
}

function contentOf(text: string, pictures: string[] = []) {
  const shown = pictures.filter((url) => url).map((url) => ({ type: "image_url", image_url: { url } }));
  return shown.length ? [...shown, { type: "text", text }] : text;
}

function isCount(text: string): boolean {
  return /^\d{1,15}$/.test(text);
}

/** Yields server-sent events as they arrive. Source: WHATWG HTML, section 9.2.6. */
async function* chunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Chunk> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (left + value).split("\n");
    left = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice(6)) as Chunk;
    }
  }
}

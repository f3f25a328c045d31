/** Conversations with a language model. */
import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { complete, type Progress } from "./completion";
import { add, areKept, begin, conversations, forget, openId, type Conversation, type Message } from "./conversations";
import { models, page } from "./live";
import { Markdown } from "./markdown";
import { readPictures, Thumbnails } from "./pictures";
import { lineOf, post } from "./server";
import { FirstSettings, nextModel, SettingsForm } from "./settings";
import { LANGUAGE } from "./status";
import { tellStory } from "./story";
import { rate } from "./words";

/** Time between two redraws of a streamed answer: parsing its Markdown for every token would take quadratic time. */
const DRAW_MS = 100;
const TITLE_CHARACTERS = 40;
/** Shortest time for which a rate is shown: in less, all tokens may have arrived in one packet. */
const LEAST_S = 0.05;
/** What is said of an answer's end, where the API's word does not explain itself. */
const END_WORDS: Partial<Record<string, string>> = { length: "cut off at the token limit" };

/** The answer that is being streamed. */
interface Answer {
  id: string;
  progress: Progress;
  stop: AbortController;
}
const answering = signal<Answer | null>(null);
const problem = signal("");

export function Chat() {
  const open = conversations.value.find((one) => one.id === openId.value);
  return (
    <div class="chat">
      <h2>Chat</h2>
      <aside aria-label="Conversations">
        <button onClick={() => begin(nextModel())}>New conversation</button>
        <ul>
          {conversations.value.map((one) => (
            <li key={one.id}>
              <button
                class="link"
                dir="auto"
                aria-current={one.id === openId.value ? "true" : undefined}
                onClick={() => (openId.value = one.id)}
              >
                {one.title}
              </button>
              <button class="link" aria-label={`Delete ${one.title}`} onClick={() => forget(one.id)}>
                ×
              </button>
            </li>
          ))}
        </ul>
        {!areKept.value && <p>The browser's storage is full or forbidden: not all conversations outlast this tab.</p>}
      </aside>
      <section aria-label="Conversation">
        {open ? <SettingsForm key={open.id} conversation={open} /> : <FirstSettings />}
        <Messages conversation={open} />
        <Prompt conversation={open} />
      </section>
    </div>
  );
}

function Messages({ conversation }: { conversation: Conversation | undefined }) {
  const end = useRef<HTMLDivElement>(null);
  const now = answering.value?.id === conversation?.id ? answering.value : null;
  const messages = conversation?.messages ?? [];
  useEffect(() => {
    if (isNearEnd() || now?.progress.tokens === 0) end.current?.scrollIntoView({ block: "nearest" });
  }, [now?.progress.tokens, messages.length]);
  return (
    <div class="messages">
      {messages.length === 0 && <p>Ask something. Conversations are kept in this browser and nowhere else.</p>}
      {messages.map((message, index) => (
        <MessageBox key={index} message={message} />
      ))}
      {now && (
        <article class="assistant" aria-label="Answer in progress" aria-busy="true">
          <Thoughts text={now.progress.thoughts} isOpen={!now.progress.text} />
          <Markdown text={now.progress.text} />
          <Speed tokens={now.progress.tokens} seconds={now.progress.seconds} />
        </article>
      )}
      <p role="alert" class="bad">
        {problem.value}
      </p>
      <div ref={end} class="end" />
    </div>
  );
}

/** The reasoning of a model that thinks before it answers. */
function Thoughts({ text, isOpen }: { text: string; isOpen: boolean }) {
  if (!text) return null;
  return (
    <details open={isOpen}>
      <summary>Thoughts</summary>
      <div class="quiet">
        <Markdown text={text} />
      </div>
    </details>
  );
}

/** Whether the page is scrolled near its end. It only follows an answer then: whoever scrolled up is reading. */
function isNearEnd(): boolean {
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  return scrollHeight - scrollTop - clientHeight < 400;
}

function MessageBox({ message }: { message: Message }) {
  const { told } = message;
  return (
    <article class={message.role} aria-label={message.role === "user" ? "Question" : "Answer"}>
      <Thumbnails pictures={message.pictures ?? []} />
      <Thoughts text={message.thoughts ?? ""} isOpen={false} />
      {message.role === "user" ? <p class="plain" dir="auto">{message.content}</p> : <Markdown text={message.content} />}
      {told && (
        <footer>
          <Speed tokens={told.tokens} seconds={told.seconds} />
          {told.end !== "stop" && <small> · {END_WORDS[told.end] ?? told.end}</small>}
          {told.requestId && (
            <button class="link" onClick={() => tellStory(told.requestId)}>
              Story
            </button>
          )}
        </footer>
      )}
    </article>
  );
}

function Speed({ tokens, seconds }: { tokens: number; seconds: number }) {
  if (tokens < 2) return null;
  return (
    <small>
      {tokens} tokens{seconds >= LEAST_S && `, ${rate((tokens - 1) / seconds)} tokens/s`}
    </small>
  );
}

/** With `serve --demo`: a button that kills a random worker while an answer is streamed. */
function Demo() {
  const told = useSignal("");
  if (!page.value?.is_demo) return null;
  async function kill(): Promise<void> {
    const candidates = models.value.flatMap((model) =>
      model.plan.workers
        .filter((worker) => model.kind === LANGUAGE && !worker.machine && model.replicas[worker.replica]?.state === "serving")
        .map((worker) => ({ model, worker })),
    );
    const victim = candidates[Math.floor(Math.random() * candidates.length)];
    if (victim === undefined) {
      told.value = "no worker is serving";
      return;
    }
    const { model, worker } = victim;
    const own = model.plan.workers.filter((one) => one.replica === worker.replica);
    const body = { model: model.name, replica: worker.replica, worker: own.indexOf(worker) };
    const name = `replica ${worker.replica} stage ${worker.stage}`;
    told.value = await post("/status/kill", body).then(() => `killed a worker: ${name}`, lineOf);
  }
  return (
    <>
      <button type="button" class="danger" onClick={kill}>
        Kill a worker
      </button>
      <span role="status" class="told">
        {told.value}
      </span>
    </>
  );
}

function Prompt({ conversation }: { conversation: Conversation | undefined }) {
  const text = useSignal("");
  const pictures = useSignal<string[]>([]);
  const asked = conversation?.settings.model ?? nextModel();
  const sees = models.value.some((model) => model.name === asked && model.takes_pictures);
  function send(): void {
    const content = text.value.trim();
    if (!content || answering.value !== null) return;
    const shown = sees ? pictures.value : [];
    text.value = "";
    pictures.value = [];
    void answer(conversation?.id ?? begin(nextModel()), content, shown);
  }
  /** Takes files that were chosen, pasted or dropped; returns whether there were any. */
  function take(files: FileList | undefined): boolean {
    if (!sees || !files?.length) return false;
    void readPictures([...files], pictures).then((wrong) => (problem.value = wrong));
    return true;
  }
  function onKeyDown(event: KeyboardEvent): void {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  }
  return (
    <form
      class="prompt row"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
      onDragOver={(event) => sees && event.preventDefault()}
      onDrop={(event) => take(event.dataTransfer?.files) && event.preventDefault()}
    >
      <label>
        Message
        <textarea
          rows={3}
          dir="auto"
          value={text.value}
          placeholder="Enter sends, Shift+Enter starts a new line"
          onInput={(event) => (text.value = event.currentTarget.value)}
          onKeyDown={onKeyDown}
          onPaste={(event) => take(event.clipboardData?.files) && event.preventDefault()}
        />
      </label>
      {sees && (
        <label class="files">
          Pictures
          <input
            type="file"
            accept="image/*"
            multiple
            onChange={(event) => {
              take(event.currentTarget.files ?? undefined);
              event.currentTarget.value = "";
            }}
          />
        </label>
      )}
      {sees && (
        <Thumbnails
          pictures={pictures.value}
          onRemove={(index) => (pictures.value = pictures.value.filter((_, place) => place !== index))}
        />
      )}
      {answering.value === null ? (
        <button type="submit">Send</button>
      ) : (
        <button type="button" onClick={() => answering.value?.stop.abort()}>
          Stop
        </button>
      )}
      <Demo />
    </form>
  );
}

function titleOf(question: string): string {
  const characters = [...question];
  return characters.length > TITLE_CHARACTERS ? `${characters.slice(0, TITLE_CHARACTERS).join("").trimEnd()}…` : question;
}

/** Sends a question and stores the answer, also a partial one if it was stopped or failed or the page was left. */
async function answer(id: string, content: string, pictures: string[]): Promise<void> {
  problem.value = "";
  const isFirst = !conversations.value.find((one) => one.id === id)?.messages.length;
  const title = isFirst ? titleOf(content) : undefined;
  add(id, { role: "user", content, ...(pictures.length && { pictures }) }, title);
  const { settings, messages } = conversations.value.find((one) => one.id === id)!;
  const stop = new AbortController();
  let latest: Progress = { text: "", thoughts: "", tokens: 0, seconds: 0 };
  answering.value = { id, progress: latest, stop };
  const timer = setInterval(() => (answering.value = { id, progress: latest, stop }), DRAW_MS);
  const requestId = [...crypto.getRandomValues(new Uint8Array(8))].map((one) => one.toString(16).padStart(2, "0")).join("");
  let isKept = false;
  function keepAnswer(end: string): void {
    const { text, thoughts, tokens, seconds } = latest;
    if (isKept || !(text || thoughts)) return;
    isKept = true;
    add(id, { role: "assistant", content: text, thoughts, told: { tokens, seconds, requestId, end } });
  }
  const leave = () => keepAnswer("interrupted");
  addEventListener("pagehide", leave);
  let end = "stopped";
  try {
    end = await complete(settings, messages, requestId, stop.signal, (progress) => (latest = progress));
  } catch (error) {
    if (!stop.signal.aborted) {
      problem.value = lineOf(error);
      end = "interrupted";
    }
  } finally {
    clearInterval(timer);
    removeEventListener("pagehide", leave);
    answering.value = null;
  }
  keepAnswer(end);
}

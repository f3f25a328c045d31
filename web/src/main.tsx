/** The page: navigation, the view that the URL's fragment names, and what every view shows (errors and events). */
import { render } from "preact";
import { signal, useSignal } from "@preact/signals";
import type { ComponentType } from "preact";
import { Chat } from "./chat";
import { Cluster } from "./cluster";
import { Curves } from "./curves";
import { TryGraph } from "./try_graph";
import { events, models, trouble, unloaded, version, watch } from "./live";
import { PlanView } from "./plan";
import { key, setKey, wantsKey } from "./server";
import { GRAPH, LANGUAGE } from "./status";
import { keepText, kept } from "./store";
import { StoryDialog } from "./story";
import { clock } from "./words";

interface View {
  title: string;
  content: ComponentType;
  /** Kind of model that the view is for; undefined: any. */
  kind?: string;
}

const VIEWS: Record<string, View> = {
  cluster: { title: "Cluster", content: Cluster },
  chat: { title: "Chat", content: Chat, kind: LANGUAGE },
  try: { title: "Try a graph", content: TryGraph, kind: GRAPH },
  load: { title: "Load", content: Curves },
  plan: { title: "Plan", content: PlanView },
};
const FIRST = "cluster";
const THEMES = ["system", "light", "dark"] as const;
const THEME = "shoal-theme";

const view = signal(location.hash.slice(1));
const theme = signal<(typeof THEMES)[number]>(THEMES.find((one) => one === kept(THEME)) ?? THEMES[0]);
addEventListener("hashchange", () => (view.value = location.hash.slice(1)));

function Page() {
  document.documentElement.dataset["theme"] = theme.value;
  const kinds = new Set([...models.value, ...unloaded.value].map((model) => model.kind));
  const shown = Object.entries(VIEWS).filter(([, one]) => !one.kind || kinds.has(one.kind));
  const name = shown.some(([one]) => one === view.value) ? view.value : FIRST;
  const Content = VIEWS[name]!.content;
  return (
    <>
      <a class="skip" href="#content" onClick={skip}>
        Skip to the content
      </a>
      <header>
        <h1>Shoal</h1>
        <nav aria-label="Views">
          {shown.map(([one, { title }]) => (
            <a key={one} href={`#${one}`} aria-current={one === name ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <Theme />
      </header>
      <Trouble />
      <main id="content" tabIndex={-1}>
        {wantsKey.value ? <KeyForm /> : version.value === "" ? <p>Waiting for the server…</p> : <Content />}
      </main>
      <Events />
      <StoryDialog />
      <footer>
        {version.value && <>Shoal {version.value} · </>}
        <a href="web/licenses.txt">Licenses</a>
      </footer>
    </>
  );
}

/** Moves the focus to the content. An ordinary anchor would not do: the URL's fragment names views. */
function skip(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function Theme() {
  function choose(event: globalThis.Event): void {
    theme.value = THEMES[(event.currentTarget as HTMLSelectElement).selectedIndex] ?? THEMES[0];
    keepText(THEME, theme.value);
  }
  return (
    <label class="theme">
      Colors
      <select value={theme.value} onChange={choose}>
        {THEMES.map((one) => (
          <option key={one}>{one}</option>
        ))}
      </select>
    </label>
  );
}

function Trouble() {
  return (
    <div role="alert">
      {trouble.value && (
        <p class="trouble">
          {trouble.value}. What is shown below is out of date; the page retries every second.
        </p>
      )}
    </div>
  );
}

/** Events since the page was opened; screen readers announce new ones. */
function Events() {
  const all = events.value;
  return (
    <section class="events" aria-labelledby="events-title">
      <h2 id="events-title">What has happened</h2>
      {all.length === 0 && <p>Nothing since this page was opened.</p>}
      <ol aria-live="polite" tabIndex={0} aria-labelledby="events-title">
        {all.map((event) => (
          <li key={`${event.at.getTime()} ${event.text}`} class={event.kind}>
            <time>{clock(event.at)}</time> {event.text}
          </li>
        ))}
      </ol>
    </section>
  );
}

function KeyForm() {
  const typed = useSignal("");
  const wasGiven = key.value !== "";
  function submit(event: SubmitEvent): void {
    event.preventDefault();
    setKey(typed.value.trim());
  }
  return (
    <form class="card key" onSubmit={submit}>
      <h2>This server requires an API key</h2>
      {wasGiven && <p class="bad">The server did not accept this key.</p>}
      <label>
        Key (<code>--api-key</code>)
        <input
          type="password"
          autocomplete="off"
          required
          value={typed.value}
          onInput={(event) => (typed.value = event.currentTarget.value)}
        />
      </label>
      <p>It is kept in this tab only, until the tab is closed.</p>
      <button type="submit">Use key</button>
    </form>
  );
}

render(<Page />, document.getElementById("app")!);
void watch();

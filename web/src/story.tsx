/** A dialog with the story of a replica or a request, as `shoal status --story` prints it. */
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ask, lineOf } from "./server";

interface Entry {
  time: string;
  model: string;
  replica: number | null;
  event: string;
  effects: string[];
  requests: string[];
}

const PERIOD_MS = 2000;
/** Entries that are shown, the latest; a replica keeps a thousand. */
const MOST_SHOWN = 200;
/** Requests of one entry that are linked. */
const MOST_REQUESTS = 8;

interface Told {
  of: string;
  /** Only this model's entries are shown; empty: those of all models. */
  model: string;
}
const told = signal<Told | null>(null);
const entries = signal<Entry[]>([]);
const problem = signal("");

export function tellStory(of: string, model = ""): void {
  entries.value = [];
  problem.value = "";
  told.value = { of, model };
}

async function read(asked: Told): Promise<void> {
  try {
    const answer = await ask<{ entries: Entry[] }>(`/status/story?of=${encodeURIComponent(asked.of)}`);
    if (told.value !== asked) return; // another story was opened meanwhile
    const own = answer.entries.filter((entry) => !asked.model || entry.model === asked.model);
    entries.value = own.slice(-MOST_SHOWN).reverse();
    problem.value = own.length ? "" : "Nothing is known about it: it ended long ago, or never existed.";
  } catch (error) {
    problem.value = lineOf(error);
  }
}

export function StoryDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = told.value;
  useEffect(() => {
    if (asked === null) return;
    if (!dialog.current!.open) dialog.current!.showModal();
    void read(asked);
    const timer = setInterval(() => void read(asked), PERIOD_MS);
    return () => clearInterval(timer);
  }, [asked]);
  return (
    <dialog ref={dialog} aria-labelledby="story-title" onClose={() => (told.value = null)}>
      {asked && (
        <>
          <header>
            <h2 id="story-title">
              The story of {/^\d{1,6}$/.test(asked.of) ? `replica ${asked.of}` : `request ${asked.of}`}
              {asked.model && `, ${asked.model}`}
            </h2>
            <button onClick={() => dialog.current!.close()}>Close</button>
          </header>
          {problem.value && <p>{problem.value}</p>}
          <div class="scroll" tabIndex={0} role="region" aria-label="Entries, the latest first">
            <table>
              <thead>
                <tr>
                  <th>Time</th>
                  <th>What happened</th>
                  <th>What was done</th>
                  <th>Requests</th>
                </tr>
              </thead>
              <tbody>
                {entries.value.map((entry, index) => (
                  <tr key={`${entry.time} ${index}`}>
                    <td>
                      <time>{entry.time.slice(11, 23)}</time>
                    </td>
                    <td>{entry.event}</td>
                    <td>{entry.effects.join("; ")}</td>
                    <td>
                      {entry.requests.slice(0, MOST_REQUESTS).map((one) => (
                        <button key={one} class="link" onClick={() => tellStory(one, asked.model)}>
                          {one.slice(0, 8)}
                        </button>
                      ))}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </dialog>
  );
}

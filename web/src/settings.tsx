/** Settings of a conversation: the model, the system prompt and sampling. */
import { signal, useSignal } from "@preact/signals";
import type { ComponentProps } from "preact";
import { begin, change, conversations, type Conversation, type Settings } from "./conversations";
import { models, unloaded } from "./live";
import { LANGUAGE } from "./status";

const areSettingsOpen = signal(false);

/** Names of the language models, including those that a request would load. */
function languageModels(): string[] {
  return [...models.value, ...unloaded.value].filter((model) => model.kind === LANGUAGE).map((model) => model.name);
}

/** The model of a new conversation: the last one's, while the server has it. */
export function nextModel(): string {
  const names = languageModels();
  const last = conversations.value[0]?.settings.model;
  return last !== undefined && names.includes(last) ? last : names[0]!;
}

/** Where no conversation is open: settings belong to one, which begins here. */
export function FirstSettings() {
  function show(): void {
    areSettingsOpen.value = true;
    begin(nextModel());
  }
  return (
    <button class="link" onClick={show}>
      Settings: {nextModel()}
    </button>
  );
}

export function SettingsForm({ conversation }: { conversation: Conversation }) {
  const { settings, id } = conversation;
  const set = (edit: Partial<Settings>) => change(id, (one) => ({ ...one, settings: { ...one.settings, ...edit } }));
  const number = (name: "temperature" | "top_p", min: number, max: number, step: number) => (
    <label>
      {name}
      <Draft
        type="number"
        min={min}
        max={max}
        step={step}
        value={settings[name]}
        take={(input) => {
          const value = input.valueAsNumber;
          if (!Number.isNaN(value)) set({ [name]: Math.min(max, Math.max(min, value)) });
          return true;
        }}
      />
    </label>
  );
  const count = (name: "max_tokens" | "seed", placeholder: string) => (
    <label>
      {name}
      <Draft
        inputMode="numeric"
        pattern="\d{0,15}"
        placeholder={placeholder}
        value={settings[name]}
        take={(input) => {
          if (!input.reportValidity()) return false;
          set({ [name]: input.value.trim() });
          return true;
        }}
      />
    </label>
  );
  return (
    <details open={areSettingsOpen.value} onToggle={(event) => (areSettingsOpen.value = event.currentTarget.open)}>
      <summary>Settings: {settings.model}</summary>
      <label class="wide">
        System prompt
        <textarea rows={2} dir="auto" value={settings.system} onInput={(event) => set({ system: event.currentTarget.value })} />
      </label>
      <div class="row">
        <label>
          model
          <select value={settings.model} onChange={(event) => set({ model: event.currentTarget.value })}>
            {[...new Set([settings.model, ...languageModels()])].map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        {number("temperature", 0, 2, 0.1)}
        {number("top_p", 0.01, 1, 0.01)}
        {count("max_tokens", "as many as fit")}
        {count("seed", "any")}
      </div>
    </details>
  );
}

type DraftProps = ComponentProps<"input"> & { take: (input: HTMLInputElement) => boolean };

/** A field whose value is taken when it is left. Until then it keeps what is typed: the page is drawn anew every second,
 * and would put the value that was taken last in its place. `take` returns whether the value was accepted. */
function Draft({ value, take, ...attributes }: DraftProps) {
  const typed = useSignal<string | undefined>(undefined);
  return (
    <input
      {...attributes}
      value={typed.value ?? value}
      onInput={(event) => (typed.value = event.currentTarget.value)}
      onChange={(event) => {
        if (take(event.currentTarget)) typed.value = undefined;
      }}
    />
  );
}

/** The state of the server, polled once a second while the page is visible. */
import { signal } from "@preact/signals";
import { ask, lineOf, wantsKey } from "./server";
import { isLoaded, type Model, type Page, type Replica, type Status, type Unloaded } from "./status";

const PERIOD_MS = 1000;
const MOST_EVENTS = 50;
/** A stage whose steps are this much slower than expected is shown as slow; the server uses the same threshold. */
const SLOW = 1.75;

/** Fraction of the time since the previous poll that a stage computed, by model, replica and stage. */
export type Shares = Record<string, number[][]>;

export interface Event {
  at: Date;
  kind: "bad" | "good" | "note";
  text: string;
}

/** The server's version; empty until it has answered. */
export const version = signal("");
export const models = signal<Model[]>([]);
export const unloaded = signal<Unloaded[]>([]);
export const page = signal<Page | null>(null);
export const shares = signal<Shares>({});
/** Output tokens (of a graph: rows) per second since the previous poll, by model. */
export const rates = signal<Record<string, number>>({});
/** Why the last poll failed; empty if it succeeded. */
export const trouble = signal("");
export const events = signal<Event[]>([]);

/** Replicas that have lost workers and got new ones since the previous poll, by `backKey`. */
export const justBack = signal<ReadonlySet<string>>(new Set());

export function backKey(model: string, replica: number): string {
  return `${replica} ${model}`;
}

interface Look {
  atMs: number;
  models: Model[];
}
let before: Look | null = null;

export function note(kind: Event["kind"], text: string): void {
  events.value = [{ at: new Date(), kind, text }, ...events.value].slice(0, MOST_EVENTS);
}

/** Polls the server until the page is closed. */
export async function watch(): Promise<void> {
  for (;;) {
    if (!document.hidden && !wantsKey.value) await look();
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
}

async function look(): Promise<void> {
  try {
    const told = await ask<Status>("/status", 5000);
    const now: Look = { models: told.models.filter(isLoaded), atMs: performance.now() };
    if (page.value === null || !sameModels(told, page.value)) page.value = await ask<Page>("/status/page");
    if (trouble.value) note("good", "the server answers again");
    trouble.value = "";
    if (before !== null) compare(before, now);
    before = now;
    models.value = now.models;
    unloaded.value = told.models.filter((model): model is Unloaded => !isLoaded(model));
    version.value = told.version;
  } catch (error) {
    if (wantsKey.value) {
      trouble.value = ""; // the server has answered, that it requires a key
      return;
    }
    const reason = lineOf(error);
    if (!trouble.value) note("bad", reason);
    trouble.value = reason;
    before = null;
    page.value = null; // the next answer may be another server's
  }
}

function sameModels(now: Status, known: Page): boolean {
  const names = (models: { name: string }[]) => models.map((one) => one.name).join("\n");
  return names(now.models) === names(known.models);
}

function compare(earlier: Look, now: Look): void {
  const elapsedS = (now.atMs - earlier.atMs) / 1000;
  const newlyBack = new Set<string>();
  const newShares: Shares = {};
  const newRates: Record<string, number> = {};
  for (const old of earlier.models)
    if (!now.models.some((one) => one.name === old.name)) note("note", `${old.name} is no longer loaded`);
  for (const model of now.models) {
    const old = earlier.models.find((one) => one.name === model.name);
    if (old === undefined) {
      note("good", `${model.name} is loaded`);
      continue;
    }
    newShares[model.name] = model.replicas.map((replica, index) => busy(old.replicas[index], replica, elapsedS));
    newRates[model.name] = Math.max(0, (done(model) - done(old)) / elapsedS);
    const hasLost = lost(model) > lost(old);
    model.replicas.forEach((replica, index) => {
      const isBack = hasLost && isAnother(old.replicas[index], replica);
      if (isBack) newlyBack.add(backKey(model.name, index));
      tell(model, index, old.replicas[index], replica, isBack);
    });
  }
  justBack.value = newlyBack;
  shares.value = newShares;
  rates.value = newRates;
}

function lost(model: Model): number {
  return model.counters["losses"] ?? 0;
}

function done(model: Model): number {
  return model.counters["generation_tokens"] ?? model.counters["rows"] ?? 0;
}

/** Busy fraction of each stage, capped at 1: a step is counted when it ends. New workers count from zero. */
function busy(old: Replica | undefined, now: Replica, elapsedS: number): number[] {
  return now.stages.map((stage, index) => {
    const earlier = old?.stages[index]?.busy_s ?? stage.busy_s;
    return Math.min(1, Math.max(0, stage.busy_s - (earlier > stage.busy_s ? 0 : earlier)) / elapsedS);
  });
}

function tell(model: Model, index: number, old: Replica | undefined, now: Replica, isBack: boolean): void {
  const who = `${model.name}, replica ${index}`;
  if (old === undefined) note("good", `${who} has joined`);
  else if (isBack) {
    note("bad", `${who} has lost workers`);
    void tellWhy(model.name, index, who).then(() => note("good", `${who} serves again`));
  } else if (old.state !== now.state) {
    const isGood = now.state === "serving";
    note(isGood ? "good" : "bad", isGood ? `${who} serves again` : `${who} has lost workers: ${now.state}`);
    if (!isGood && old.state === "serving") void tellWhy(model.name, index, who);
  }
  now.stages.forEach((stage, place) => {
    const was = isSlow(old?.stages[place]?.slowdown ?? 1);
    if (isSlow(stage.slowdown) !== was)
      note(was ? "good" : "bad", `${who}, stage ${place} is ${was ? "as fast as usual again" : "slow"}`);
  });
}

/** Whether a serving replica's processes have changed between two polls: it was lost and has recovered meanwhile. */
function isAnother(old: Replica | undefined, now: Replica): boolean {
  return old?.state === "serving" && now.state === "serving" && old.pids.join() !== now.pids.join();
}

/** Adds an event with the reason of a loss, from the replica's story. */
async function tellWhy(model: string, index: number, who: string): Promise<void> {
  const loss = "stop workers";
  const { entries } = await ask<{ entries: { model: string; effects: string[] }[] }>(`/status/story?of=${index}`).catch(
    () => ({ entries: [] }), // the next poll reports that the server does not answer
  );
  const told = entries.filter((entry) => entry.model === model).flatMap((entry) => entry.effects);
  const reason = told.findLast((effect) => effect.startsWith(loss))?.replace(/^[^:]*: /, "");
  if (reason) note("bad", `${who}: ${reason}`);
}

export function isSlow(slowdown: number): boolean {
  return slowdown >= SLOW;
}

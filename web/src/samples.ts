/** The server's samples of the load in the last hour. */
import { signal } from "@preact/signals";
import { ask } from "./server";

export type Values = (number | null)[];

export interface Series {
  name: string;
  age_s: number[];
  in_per_s: Values;
  out_per_s: Values;
  running: Values;
  waiting: Values;
  kv_usage: Values;
  serving: Values;
  losses: Values;
}

const series = signal<Series[]>([]);

export const latest = {
  /** Fetches the samples. An error is ignored: polling the state shows it. */
  async read(): Promise<void> {
    try {
      series.value = (await ask<{ models: Series[] }>("/status/history")).models;
    } catch {
      // the previous samples stay
    }
  },
  all(): Series[] {
    return series.value;
  },
  /** The highest output rate among a model's samples. */
  best(model: string): number | undefined {
    const own = series.value.find((one) => one.name === model)?.out_per_s ?? [];
    const known = own.filter((value) => value !== null);
    return known.length ? Math.max(...known) : undefined;
  },
};

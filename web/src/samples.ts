/** The load of the last hour, as the server has sampled it. */
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
  /** Ask for the samples. An error is shown by the poll of the state. */
  async read(): Promise<void> {
    try {
      series.value = (await ask<{ models: Series[] }>("/status/history")).models;
    } catch {
      // the samples of before are shown
    }
  },
  all(): Series[] {
    return series.value;
  },
  /** The best rate of a sample of a model. */
  best(model: string): number | undefined {
    const own = series.value.find((one) => one.name === model)?.out_per_s ?? [];
    const known = own.filter((value) => value !== null);
    return known.length ? Math.max(...known) : undefined;
  },
};

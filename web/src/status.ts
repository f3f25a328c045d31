/** Types of the answers of `/status`. */

export interface Stage {
  step_s: number;
  slowdown: number;
  busy_s: number;
}

export interface Replica {
  state: string;
  is_reduced: boolean;
  running: number;
  waiting: number;
  kv_usage: number | null;
  stages: Stage[];
  /** Process ids of its workers. */
  pids: number[];
}

export interface Worker {
  replica: number;
  stage: number;
  shard: number;
  first_layer?: number;
  last_layer?: number;
  first_node?: number;
  last_node?: number;
  threads: number;
  machine?: string | null;
  weight_bytes: number;
  kv_bytes?: number;
  precision?: string;
}

export interface Predicted {
  streams: number;
  prompt_tokens: number;
  output_tokens: number;
  output_tokens_per_s: number;
  ttft_s: number;
  tpot_s: number;
}

export interface Plan {
  split: string;
  link_precision?: string;
  max_context?: number;
  predicted?: Predicted | null;
  workers: Worker[];
}

export interface Model {
  name: string;
  kind: string;
  /** Whether chats may contain pictures. */
  takes_pictures?: boolean;
  plan: Plan;
  machines?: { name: string; state: string }[];
  replicas: Replica[];
  counters: Record<string, number>;
}

/** A model that is not loaded: a server of several models has no workers for it now. */
export interface Unloaded {
  name: string;
  kind: string;
  state: string;
}

export interface Status {
  version: string;
  models: (Model | Unloaded)[];
}

export function isLoaded(model: Model | Unloaded): model is Model {
  return "plan" in model;
}

export interface Link {
  from: (string | null)[];
  to: (string | null)[];
  latency_s: number;
  bytes_per_s: number;
}

/** A plan's predicted performance: in tokens for language models, in rows for graphs. */
export interface Prediction {
  output_tokens_per_s?: number;
  ttft_s?: number;
  tpot_s?: number;
  lone_request_s?: number;
  rows_per_s?: number;
  latency_s?: number;
  memory_bytes: number[];
  bottleneck: string;
}

export interface Choice {
  kind: string;
  split?: string;
  objective?: string;
  predicted: Prediction;
  bound_tokens_per_s?: number;
  bound_rows_per_s?: number;
  gap: number;
  alternatives: { kind: string; rejected: string; split?: string; predicted?: Prediction }[];
  links?: Link[];
}

export interface PageModel {
  name: string;
  choice: Choice | null;
  machines: string[];
}

export interface Page {
  is_demo: boolean;
  models: PageModel[];
}

export const LANGUAGE = "language model";
export const GRAPH = "ONNX graph";

/** A worker's name, for example `replica 0 stage 1`. */
export function nameOf(worker: Worker, isSharded: boolean): string {
  const name = `replica ${worker.replica} stage ${worker.stage}`;
  return isSharded ? `${name} shard ${worker.shard}` : name;
}

/** The layers or nodes that a worker holds, for example `layers 0–7`. */
export function holdings(worker: Worker): string {
  if (worker.first_layer !== undefined) return span("layer", worker.first_layer, worker.last_layer!);
  if (worker.first_node !== undefined) return span("node", worker.first_node, worker.last_node!);
  return "";
}

function span(what: string, first: number, end: number): string {
  return end - first === 1 ? `${what} ${first}` : `${what}s ${first}–${end - 1}`;
}

/** Machines, workers and the links between them, as they are now. */
import { useSignal } from "@preact/signals";
import { backKey, isSlow, justBack, models, page, rates, shares, unloaded } from "./live";
import { lineOf, post } from "./server";
import { LANGUAGE, holdings, nameOf, type Link, type Model, type Replica, type Worker } from "./status";
import { tellStory } from "./story";
import { bytes, counted, percent, rate, seconds } from "./words";

const HERE = "this machine";

export function Cluster() {
  return (
    <>
      <h2>Cluster</h2>
      <FindRequest />
      {models.value.length === 0 && <p>No model is loaded.</p>}
      {models.value.map((model) => (
        <ModelCard key={model.name} model={model} />
      ))}
      {unloaded.value.map((model) => (
        <section key={model.name} class="card" aria-label={`Model ${model.name}`}>
          <h3>
            {model.name} <small>{model.kind}</small>
          </h3>
          <p>{model.state}: a request to it starts its workers.</p>
        </section>
      ))}
    </>
  );
}

function FindRequest() {
  const typed = useSignal("");
  function submit(event: SubmitEvent): void {
    event.preventDefault();
    if (typed.value.trim()) tellStory(typed.value.trim());
  }
  return (
    <form class="row" onSubmit={submit}>
      <label>
        Story of a request
        <input
          value={typed.value}
          maxLength={256}
          placeholder="X-Request-Id"
          onInput={(event) => (typed.value = event.currentTarget.value)}
        />
      </label>
      <button>Show</button>
    </form>
  );
}

function ModelCard({ model }: { model: Model }) {
  const { counters } = model;
  const unit = model.kind === LANGUAGE ? "tokens/s" : "rows/s";
  const facts = [
    ["split", model.plan.split],
    [unit, rate(rates.value[model.name] ?? 0)],
    ["running", counters["running"]],
    ["waiting", counters["waiting"]],
    ["losses", counters["losses"]],
    ["recoveries", counters["recoveries"]],
  ];
  return (
    <section class="card" aria-label={`Model ${model.name}`}>
      <h3>
        {model.name} <small>{model.kind}</small>
      </h3>
      <dl class="facts">
        {facts.map(([what, value]) => (
          <div key={what}>
            <dt>{what}</dt>
            <dd>{value ?? "?"}</dd>
          </div>
        ))}
      </dl>
      <Machines model={model} />
      {replicaNumbers(model).map((index) => (
        <ReplicaRow key={index} model={model} index={index} replica={model.replicas[index]} />
      ))}
    </section>
  );
}

function replicaNumbers(model: Model): number[] {
  return [...new Set(model.plan.workers.map((worker) => worker.replica))].sort((one, other) => one - other);
}

/** Each machine: its state, and the number, threads and weights of its workers. */
function Machines({ model }: { model: Model }) {
  const workers = Map.groupBy(model.plan.workers, (worker) => worker.machine ?? HERE);
  const states = new Map(model.machines?.map((machine) => [machine.name, machine.state]));
  const names = [...new Set([...workers.keys(), ...states.keys()])];
  return (
    <ul class="machines" aria-label="Machines">
      {names.map((name) => {
        const own = workers.get(name) ?? [];
        return (
          <li key={name}>
            <b>{name}</b> {states.get(name) ?? ""}
            <br />
            {counted(own.length, "worker")}, {counted(sum(own, (one) => one.threads), "thread")},{" "}
            {bytes(sum(own, (one) => one.weight_bytes))} of weights
          </li>
        );
      })}
    </ul>
  );
}

function sum(workers: Worker[], of: (worker: Worker) => number): number {
  return workers.reduce((total, worker) => total + of(worker), 0);
}

interface RowProps {
  model: Model;
  index: number;
  replica: Replica | undefined;
}

function ReplicaRow({ model, index, replica }: RowProps) {
  const workers = model.plan.workers.filter((worker) => worker.replica === index);
  const stages = [...Map.groupBy(workers, (worker) => worker.stage).values()];
  const state = replica?.state ?? "unknown";
  const isBack = justBack.value.has(backKey(model.name, index));
  return (
    <section class={`replica ${state === "serving" && !isBack ? "good" : "bad"}`} aria-label={`Replica ${index}`}>
      <header>
        <h4>Replica {index}</h4>
        <span class="state">
          {state}
          {isBack && " again, with new workers"}
          {replica?.is_reduced && ", replanned"}
        </span>
        {replica && (
          <span>
            {replica.running} running, {replica.waiting} waiting
          </span>
        )}
        {replica?.kv_usage != null && <Bar what="KV memory" share={replica.kv_usage} />}
        <button class="link" onClick={() => tellStory(String(index), model.name)}>
          Story
        </button>
      </header>
      <div class="pipeline" role="list" aria-label={`Stages of replica ${index}`}>
        {stages.map((shards, stage) => (
          <div key={stage} role="listitem" class="hop">
            {stage > 0 && <LinkLine model={model} from={stages[stage - 1]!} to={shards} />}
            <StageBox model={model} index={index} stage={stage} shards={shards} replica={replica} />
          </div>
        ))}
      </div>
    </section>
  );
}

function LinkLine({ model, from, to }: { model: Model; from: Worker[]; to: Worker[] }) {
  const one = from[0]!.machine ?? null;
  const other = to[0]!.machine ?? null;
  const links = page.value?.models.find((known) => known.name === model.name)?.choice?.links ?? [];
  const link = links.find((known: Link) => known.from.includes(one) && known.to.includes(other));
  const how = one === other ? "shared memory" : `TLS, ${model.plan.link_precision ?? "fp32"}`;
  return (
    <div class="link-line">
      <span aria-hidden="true" class="arrow" />
      <small>
        {how}
        {link && ` · ${seconds(link.latency_s)} · ${bytes(link.bytes_per_s)}/s`}
      </small>
    </div>
  );
}

interface StageProps {
  model: Model;
  index: number;
  stage: number;
  shards: Worker[];
  replica: Replica | undefined;
}

/** One pipeline stage: how busy it is, and its workers. */
function StageBox({ model, index, stage, shards, replica }: StageProps) {
  const now = replica?.stages[stage];
  const share = shares.value[model.name]?.[index]?.[stage] ?? 0;
  const slow = now !== undefined && isSlow(now.slowdown);
  return (
    <div class={`stage ${slow ? "slow" : ""}`}>
      <Bar what={`stage ${stage} busy`} share={replica?.state === "serving" ? share : 0} />
      <p>
        {now && now.step_s > 0 ? `${seconds(now.step_s)} per step` : "no step yet"}
        {slow && <strong> · slow: {now.slowdown.toFixed(1)} × the usual time</strong>}
      </p>
      {shards.map((worker) => (
        <WorkerBox key={worker.shard} model={model} worker={worker} isSharded={shards.length > 1} replica={replica} />
      ))}
    </div>
  );
}

interface WorkerProps {
  model: Model;
  worker: Worker;
  isSharded: boolean;
  replica: Replica | undefined;
}

function WorkerBox({ model, worker, isSharded, replica }: WorkerProps) {
  const lives = replica?.state === "serving";
  const name = nameOf(worker, isSharded);
  const canKill = page.value?.is_demo && lives && !worker.machine;
  return (
    <div class="worker">
      <button class="body" onClick={() => tellStory(String(worker.replica), model.name)} title={`Story of ${name}`}>
        <b>{isSharded ? `shard ${worker.shard}` : `worker ${worker.replica}.${worker.stage}`}</b>
        <span>{worker.machine ?? HERE}</span>
        <span>
          {holdings(worker)}, {counted(worker.threads, "thread")}
        </span>
        <span>
          {bytes(worker.weight_bytes)}
          {worker.kv_bytes ? ` + ${bytes(worker.kv_bytes)} KV` : ""}
        </span>
      </button>
      {canKill && <KillButtons model={model} worker={worker} name={name} />}
    </div>
  );
}

/** With `serve --demo`: buttons that kill or hang a worker. */
function KillButtons({ model, worker, name }: { model: Model; worker: Worker; name: string }) {
  const problem = useSignal("");
  async function strike(how: "kill" | "stop"): Promise<void> {
    const own = model.plan.workers.filter((one) => one.replica === worker.replica);
    const body = { model: model.name, replica: worker.replica, worker: own.indexOf(worker), how };
    problem.value = await post("/status/kill", body).then(() => "", lineOf);
  }
  return (
    <div class="row">
      <button class="danger" aria-label={`Kill ${name} of ${model.name}`} onClick={() => strike("kill")}>
        Kill
      </button>
      <button class="danger" aria-label={`Hang ${name} of ${model.name}`} onClick={() => strike("stop")}>
        Hang
      </button>
      <span role="status">{problem.value}</span>
    </div>
  );
}

function Bar({ what, share }: { what: string; share: number }) {
  return (
    <span class="bar">
      <span>
        {what} {percent(share)}
      </span>
      <meter min={0} max={1} value={share} aria-label={what} />
    </span>
  );
}

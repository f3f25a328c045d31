/** Each model's plan: predicted and measured performance, the alternatives, and plans for other machines. */
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { models, page, rates } from "./live";
import { call, lineOf, post } from "./server";
import { LANGUAGE, type Choice, type Model, type PageModel, type Prediction } from "./status";
import { latest } from "./samples";
import { bytes, percent, rate, seconds } from "./words";

const PERIOD_MS = 5000;

/** Lines of `/metrics`, in Prometheus's text format. */
const metrics = signal<string[]>([]);

async function readMetrics(): Promise<void> {
  metrics.value = (await call("/metrics").then((answer) => answer.text(), () => "")).split("\n");
}

/** The mean of one model's histogram over all requests so far. Source: Prometheus, text exposition format 0.0.4. */
function mean(histogram: string, model: string): number | undefined {
  const label = model.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const value = (what: string) => {
    const head = `shoal:${histogram}_${what}{model_name="${label}"} `;
    return Number(metrics.value.find((line) => line.startsWith(head))?.slice(head.length) ?? 0);
  };
  const count = value("count");
  return count ? value("sum") / count : undefined;
}

export function PlanView() {
  useEffect(() => {
    void readMetrics();
    void latest.read();
    const timer = setInterval(() => {
      void readMetrics();
      void latest.read();
    }, PERIOD_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <>
      <h2>Plan</h2>
      {models.value.length === 0 && <p>No model is loaded.</p>}
      {models.value.map((model) => {
        const known = page.value?.models.find((one) => one.name === model.name);
        return (
          <section key={model.name} class="card" aria-label={`Plan of ${model.name}`}>
            <h3>
              {model.name} <small>split {model.plan.split}</small>
            </h3>
            <Measured model={model} />
            {known?.choice ? (
              <Runners choice={known.choice} of={model.name} />
            ) : (
              <p>
                {model.plan.predicted
                  ? "Run shoal plan --explain to see the alternatives."
                  : "The split was given, so no alternatives were compared. Serve with --split auto to have it chosen."}
              </p>
            )}
            {known && known.machines.length > 0 && <WhatIf known={known} />}
          </section>
        );
      })}
    </>
  );
}

/** Predicted and measured performance. A prediction assumes its own load, so the best five seconds are shown, too. */
function Measured({ model }: { model: Model }) {
  const { predicted } = model.plan;
  const choice = page.value?.models.find((one) => one.name === model.name)?.choice;
  const isLanguage = model.kind === LANGUAGE;
  const expected = predicted?.output_tokens_per_s ?? choice?.predicted.rows_per_s;
  const best = latest.best(model.name);
  const now = rates.value[model.name];
  const rows: [string, string, string][] = [
    [
      isLanguage ? "tokens/s" : "rows/s",
      expected === undefined ? "–" : rate(expected),
      `${now === undefined ? "–" : rate(now)} now, ${best === undefined ? "–" : rate(best)} in the best 5 s of the hour`,
    ],
  ];
  if (isLanguage) {
    const ttft_s = mean("time_to_first_token_seconds", model.name);
    const tpot_s = mean("request_time_per_output_token_seconds", model.name);
    const text = (value: number | undefined) => (value === undefined ? "–" : seconds(value));
    rows.push(["first token", text(predicted?.ttft_s), `${text(ttft_s)} on average`]);
    rows.push(["per token", text(predicted?.tpot_s), `${text(tpot_s)} on average`]);
  }
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Predicted and measured of ${model.name}`}>
        <table>
          <thead>
            <tr>
              <th>Quantity</th>
              <th>Predicted</th>
              <th>Measured</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(([what, planned, seen]) => (
              <tr key={what}>
                <th scope="row">{what}</th>
                <td>{planned}</td>
                <td>{seen}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {predicted && (
        <p>
          Predicted for {predicted.streams} stream{predicted.streams === 1 ? "" : "s"} of {predicted.prompt_tokens} +{" "}
          {predicted.output_tokens} tokens; under another load, measurements differ.
        </p>
      )}
    </>
  );
}

function Runners({ choice, of }: { choice: Choice; of: string }) {
  const bound = choice.bound_tokens_per_s ?? choice.bound_rows_per_s;
  const rows = [{ kind: choice.kind, rejected: "chosen", split: choice.split, predicted: choice.predicted }];
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Plans that were compared for ${of}`}>
        <table>
          <caption>The best plan of each kind{choice.objective && `, by ${choice.objective}`}</caption>
          <thead>
            <tr>
              <th>Kind</th>
              <th>Split</th>
              <th>Rate</th>
              <th>Single request</th>
              <th>Largest worker</th>
              <th>Why not chosen</th>
            </tr>
          </thead>
          <tbody>
            {[...rows, ...choice.alternatives].map((one) => (
              <tr key={one.kind} class={one.rejected === "chosen" ? "good" : ""}>
                <th scope="row">{one.kind}</th>
                <td>{one.split ?? ""}</td>
                <Figures predicted={one.predicted} />
                <td>{one.rejected}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p>
        Bottleneck: {choice.predicted.bottleneck}.
        {bound !== undefined && ` No plan for these workers can exceed ${rate(bound)}/s (gap ${percent(choice.gap)}).`}
      </p>
    </>
  );
}

function Figures({ predicted }: { predicted: Prediction | undefined }) {
  const perS = perSecond(predicted);
  const alone = predicted?.lone_request_s ?? predicted?.latency_s;
  return (
    <>
      <td>{perS === undefined ? "" : `${rate(perS)}/s`}</td>
      <td>{alone === undefined ? "" : seconds(alone)}</td>
      <td>{predicted ? bytes(Math.max(...predicted.memory_bytes)) : ""}</td>
    </>
  );
}

interface Question {
  title: string;
  body: { change: string; like?: string; factor?: number };
}

/** Asks the planner for its plan with other machines or links. */
function WhatIf({ known }: { known: PageModel }) {
  const answer = useSignal<Choice | null>(null);
  const asked = useSignal("");
  const problem = useSignal("");
  const isAsking = useSignal(false);
  const like = useSignal(known.machines[0]!);
  const isLone = known.machines.length === 1;
  const questions: Question[] = [
    { title: `one more like ${like.value}`, body: { change: "add", like: like.value } },
    { title: `one fewer of ${like.value}`, body: { change: "remove", like: like.value } },
    { title: "links half as fast", body: { change: "links", factor: 0.5 } },
    { title: "links ten times as fast", body: { change: "links", factor: 10 } },
  ];

  async function put(question: Question): Promise<void> {
    asked.value = question.title;
    answer.value = null;
    problem.value = "";
    isAsking.value = true;
    try {
      answer.value = await post<Choice>("/status/what-if", { model: known.name, ...question.body });
    } catch (error) {
      problem.value = lineOf(error);
    } finally {
      isAsking.value = false;
    }
  }
  return (
    <>
      <h4>What if there were …</h4>
      <div class="row">
        {!isLone && (
          <label>
            Machine
            <select value={like.value} onChange={(event) => (like.value = event.currentTarget.value)}>
              {known.machines.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
        {questions.map((question) => (
          <button key={question.title} disabled={isAsking.value} onClick={() => put(question)}>
            {question.title}
          </button>
        ))}
      </div>
      <div role="status">
        {isAsking.value && <p>The planner is searching…</p>}
        {problem.value && (
          <p>
            With {asked.value}: {problem.value}
          </p>
        )}
        {answer.value && (
          <>
            <p>
              With {asked.value}: <b>{answer.value.kind}</b>, {answer.value.split},{" "}
              {rate(perSecond(answer.value.predicted) ?? 0)} {unitOf(answer.value.predicted)}{" "}
              {compared(answer.value.predicted, known.choice?.predicted)}
            </p>
            <Runners choice={answer.value} of={`${known.name} with ${asked.value}`} />
          </>
        )}
      </div>
    </>
  );
}

/** Predicted throughput: tokens per second of a language model, rows per second of a graph. */
function perSecond(predicted: Prediction | undefined): number | undefined {
  return predicted?.output_tokens_per_s ?? predicted?.rows_per_s;
}

function unitOf(predicted: Prediction): string {
  return predicted.rows_per_s === undefined ? "tokens/s" : "rows/s";
}

function compared(now: Prediction, before: Prediction | undefined): string {
  const [after, first] = [perSecond(now), perSecond(before)];
  if (!after || !first) return "";
  const more = after / first - 1;
  return `(${more >= 0 ? "+" : "−"}${percent(Math.abs(more))} compared with the prediction for the present machines)`;
}

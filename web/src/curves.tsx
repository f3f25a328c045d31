/** Load curves of the last hour. */
import { useEffect } from "preact/hooks";
import { models } from "./live";
import { latest, type Series, type Values } from "./samples";
import { LANGUAGE } from "./status";
import { percent, rate } from "./words";

const PERIOD_MS = 5000;
const WIDTH = 600;
const HEIGHT = 120;
/** Shortest span of the time axis, so that the curve of a server that has just started is readable. */
const LEAST_SPAN_S = 300;

interface Curve {
  title: string;
  values: Values;
  text: (value: number) => string;
  /** Top of the value axis; undefined: the largest value. */
  most?: number;
}

export function Curves() {
  useEffect(() => {
    void latest.read();
    const timer = setInterval(() => void latest.read(), PERIOD_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <>
      <h2>Load of the last hour</h2>
      {latest.all().length === 0 && <p>There is no sample yet: the server takes one every five seconds.</p>}
      {latest.all().map((series) => (
        <section key={series.name} class="card" aria-label={`Load of ${series.name}`}>
          <h3>{series.name}</h3>
          <div class="curves">
            {curvesOf(series).map((curve) => (
              <CurveFigure key={curve.title} ages={series.age_s} curve={curve} />
            ))}
          </div>
        </section>
      ))}
    </>
  );
}

function curvesOf(series: Series): Curve[] {
  const isLanguage = models.value.find((model) => model.name === series.name)?.kind === LANGUAGE;
  const whole = (value: number) => String(Math.round(value));
  const curves: Curve[] = [
    { title: isLanguage ? "Output tokens/s" : "Rows/s", values: series.out_per_s, text: rate },
    { title: "Prompt tokens/s", values: series.in_per_s, text: rate },
    { title: "Requests running", values: series.running, text: whole },
    { title: "Requests waiting", values: series.waiting, text: whole },
    { title: "KV memory in use", values: series.kv_usage, text: percent, most: 1 },
    { title: "Serving replicas", values: series.serving, text: whole },
    { title: "Losses so far", values: series.losses, text: whole },
  ];
  return curves.filter((curve) => curve.values.some((value) => value !== null));
}

function CurveFigure({ ages, curve }: { ages: number[]; curve: Curve }) {
  const known = curve.values.filter((value) => value !== null);
  const now = curve.values.at(-1) ?? null;
  const peak = Math.max(...known);
  const most = Math.max(curve.most ?? peak, 1e-9);
  const span = Math.max(LEAST_SPAN_S, ages[0] ?? 0);
  const summary = `${now === null ? "–" : curve.text(now)} now, ${curve.text(peak)} at most`;
  return (
    <figure>
      <figcaption>
        <b>{curve.title}</b> {summary}
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${curve.title}: ${summary}`}>
        <line x1={0} y1={HEIGHT - 1} x2={WIDTH} y2={HEIGHT - 1} class="axis" />
        <path d={pathOf(ages, curve.values, most, span)} class="curve" />
      </svg>
      <small class="ends">
        <span>{Math.round(span / 60)} minutes ago</span>
        <span>now</span>
      </small>
    </figure>
  );
}

/** The curve as an SVG path, with gaps where values are missing. */
function pathOf(ages: number[], values: Values, most: number, span: number): string {
  let isDrawing = false;
  return values
    .map((value, index) => {
      if (value === null) {
        isDrawing = false;
        return "";
      }
      const x = WIDTH * (1 - ages[index]! / span);
      const y = (HEIGHT - 2) * (1 - value / most) + 1;
      const step = `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      isDrawing = true;
      return step;
    })
    .join("");
}

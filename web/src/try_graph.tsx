/** A form for one request to a graph or a chain: files, numbers or text in, tensors or texts out. */
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { infer, metadata, ready, type Answer, type Metadata, type Output, type Spec } from "./inference";
import { SCALES, pictureTensor, soundTensor, type Scale } from "./media";
import { readNpy, tensorOf, valuesOf, writeNpy, type Tensor } from "./npy";
import { lineOf } from "./server";
import { tellStory } from "./story";
import { seconds } from "./words";

/** Most values of an output that are shown. */
const MOST_SHOWN = 64;
/** Most values of an output for which the largest are listed. */
const MOST_RANKED = 1 << 20;
const TOP = 5;
const MOST_TEXT = 20_000;
/** Sides, in pixels, of outputs that are drawn as a picture. */
const LEAST_SIDE = 8;
const MOST_SIDE = 1024;

const names = signal<string[]>([]);
const chosen = signal("");
const problem = signal("");

export function TryGraph() {
  const known = useSignal<Metadata | null>(null);
  useEffect(() => {
    ready().then((found) => {
      names.value = found;
      if (!found.includes(chosen.value)) chosen.value = found[0] ?? "";
    }, show);
  }, []);
  const name = chosen.value;
  useEffect(() => {
    known.value = null;
    problem.value = "";
    if (name) metadata(name).then((told) => (known.value = told), show);
  }, [name]);
  return (
    <>
      <h2>Try a graph</h2>
      <label>
        Model or chain{" "}
        <select value={name} onChange={(event) => (chosen.value = event.currentTarget.value)}>
          {names.value.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </label>
      <p role="alert" class="bad">
        {problem.value}
      </p>
      {known.value && <InputForm key={known.value.name} known={known.value} />}
    </>
  );
}

function show(error: unknown): void {
  problem.value = lineOf(error);
}

interface Given {
  file?: File;
  text?: string;
  scale: Scale;
}

function InputForm({ known }: { known: Metadata }) {
  const given = useSignal<Record<string, Given>>({});
  const answer = useSignal<Answer | null>(null);
  const isOut = useSignal(false);
  const of = (name: string): Given => given.value[name] ?? { scale: SCALES[0]! };

  async function send(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    problem.value = "";
    answer.value = null;
    isOut.value = true;
    try {
      const inputs: Record<string, Tensor | string> = {};
      for (const spec of known.inputs) {
        const value = await valueOf(spec, of(spec.name));
        if (value !== undefined) inputs[spec.name] = value; // graphs may have defaults
      }
      answer.value = await infer(known.name, inputs);
    } catch (error) {
      show(error);
    } finally {
      isOut.value = false;
    }
  }
  return (
    <form class="card" onSubmit={send}>
      {known.inputs.map((spec) => (
        <InputFields
          key={spec.name}
          spec={spec}
          given={of(spec.name)}
          onChange={(edit) => (given.value = { ...given.value, [spec.name]: { ...of(spec.name), ...edit } })}
        />
      ))}
      <button disabled={isOut.value}>Run</button>
      <div role="status">
        {isOut.value && <p>Running…</p>}
        {answer.value && (
          <p>
            Answered in {seconds(answer.value.seconds)}.{" "}
            <button type="button" class="link" onClick={() => tellStory(answer.value!.requestId)}>
              Story
            </button>
          </p>
        )}
      </div>
      {answer.value?.outputs.map((output) => (
        <OutputBox key={output.name} output={output} />
      ))}
    </form>
  );
}

interface FieldsProps {
  spec: Spec;
  given: Given;
  onChange: (edit: Partial<Given>) => void;
}

function InputFields({ spec, given, onChange }: FieldsProps) {
  const isText = spec.datatype === "BYTES" && !["image", "bytes"].includes(spec.parameters?.kind ?? "");
  const isPicture = given.file?.type.startsWith("image/") && spec.datatype !== "BYTES";
  return (
    <fieldset>
      <legend>
        {spec.name} <small>{`${spec.datatype} [${spec.shape.map((length) => (length < 0 ? "any" : length)).join(", ")}]`}</small>
      </legend>
      {!isText && (
        <label>
          Picture, sound or .npy
          <input type="file" onChange={(event) => onChange({ file: event.currentTarget.files?.[0] })} />
        </label>
      )}
      {isPicture && (
        <label>
          Values{" "}
          <select value={given.scale} onChange={(event) => onChange({ scale: event.currentTarget.value as Scale })}>
            {SCALES.map((scale) => (
              <option key={scale}>{scale}</option>
            ))}
          </select>
        </label>
      )}
      <label>
        {isText ? "Text" : "or numbers, separated by commas"}
        <input value={given.text ?? ""} onInput={(event) => onChange({ text: event.currentTarget.value })} />
      </label>
    </fieldset>
  );
}

/** The value of an input; undefined if none was given. */
async function valueOf(spec: Spec, given: Given): Promise<Tensor | string | undefined> {
  const { file, text } = given;
  if (file === undefined) return text ? (spec.datatype === "BYTES" ? text : numbers(spec, text)) : undefined;
  if (spec.datatype === "BYTES") return dataUrl(file);
  if (file.name.toLowerCase().endsWith(".npy")) return readNpy(new Uint8Array(await file.arrayBuffer()));
  if (file.type.startsWith("image/")) return pictureTensor(file, spec, given.scale);
  if (file.type.startsWith("audio/")) return soundTensor(file, spec);
  throw new Error(`${file.name} is neither a picture, a sound nor a .npy file`);
}

/** A file as a data URL, the form in which chains take files. */
function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

/** Numbers in the input's shape. Open dimensions are 1, except the last, which takes as many numbers as there are. */
function numbers(spec: Spec, text: string): Tensor {
  const values = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (values.some(Number.isNaN)) throw new Error(`${spec.name}: not all of these are numbers`);
  const shape = spec.shape.map((length) => (length > 0 ? length : 1));
  const rest = shape.slice(0, -1).reduce((product, length) => product * length, 1);
  if (shape.length && spec.shape.at(-1)! <= 0) shape[shape.length - 1] = Math.ceil(values.length / rest);
  return tensorOf(values, spec.datatype, shape);
}

function OutputBox({ output }: { output: Output }) {
  const { tensor, texts } = output;
  return (
    <section class="output" aria-label={`Output ${output.name}`}>
      <h3>
        {output.name} <small>{`${tensor?.datatype ?? "texts"} [${output.shape.join(", ")}]`}</small>
      </h3>
      {texts && <pre tabIndex={0}>{texts.join("\n").slice(0, MOST_TEXT)}</pre>}
      {tensor && <TensorView name={output.name} tensor={tensor} />}
    </section>
  );
}

function TensorView({ name, tensor }: { name: string; tensor: Tensor }) {
  const values = valuesOf(tensor, MOST_SHOWN);
  return (
    <>
      <Largest tensor={tensor} />
      <Picture tensor={tensor} name={name} />
      <pre tabIndex={0} aria-label={`First values of ${name}`}>
        {values.map((value) => Number(value.toPrecision(5))).join(", ")}
        {values.length === MOST_SHOWN && " …"}
      </pre>
      <button type="button" onClick={() => save(tensor, name)}>
        Save as .npy
      </button>
    </>
  );
}

/** The largest values of an output of one row: a classifier's best classes. */
function Largest({ tensor }: { tensor: Tensor }) {
  const row = tensor.shape.at(-1) ?? 0;
  const isRow = tensor.shape.slice(0, -1).every((length) => length === 1) && row > TOP && row <= MOST_RANKED;
  if (!isRow || !tensor.datatype.startsWith("FP")) return null;
  const ranked = valuesOf(tensor, row)
    .map((value, index) => ({ value, index }))
    .sort((one, other) => other.value - one.value)
    .slice(0, TOP);
  return (
    <p>
      Largest: {ranked.map(({ value, index }) => `index ${index} with ${value.toPrecision(4)}`).join(", ")}
    </p>
  );
}

/** A 2-D output as a gray picture, scaled from the smallest value to the largest. */
function Picture({ tensor, name }: { tensor: Tensor; name: string }) {
  const [height, width] = tensor.shape.slice(-2);
  const isPlane = tensor.shape.length >= 2 && tensor.shape.slice(0, -2).every((length) => length === 1);
  const fits = (side: number | undefined) => side !== undefined && side >= LEAST_SIDE && side <= MOST_SIDE;
  if (!isPlane || !fits(height) || !fits(width)) return null;
  function draw(canvas: HTMLCanvasElement | null): void {
    const context = canvas?.getContext("2d");
    if (!context) return;
    const values = valuesOf(tensor, height! * width!);
    const least = values.reduce((one, other) => Math.min(one, other), Infinity);
    const most = values.reduce((one, other) => Math.max(one, other), -Infinity);
    const image = context.createImageData(width!, height!);
    values.forEach((value, index) => {
      const gray = (255 * (value - least)) / (most - least || 1);
      image.data.set([gray, gray, gray, 255], 4 * index);
    });
    context.putImageData(image, 0, 0);
  }
  return <canvas ref={draw} width={width} height={height} role="img" aria-label={`${name} as a picture`} />;
}

function save(tensor: Tensor, name: string): void {
  const url = URL.createObjectURL(writeNpy(tensor));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name.replace(/\W+/g, "_")}.npy`;
  link.click();
  URL.revokeObjectURL(url);
}

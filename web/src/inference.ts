/** A client of the Open Inference Protocol with binary tensors.
 *
 * Source: Triton, "Binary Tensor Data Extension".
 */
import { ask, call } from "./server";
import { KINDS, type Tensor } from "./npy";

export interface Spec {
  name: string;
  datatype: string;
  shape: number[];
  parameters?: { kind?: string };
}

export interface Metadata {
  name: string;
  platform: string;
  inputs: Spec[];
  outputs: Spec[];
}

/** One output: a tensor or texts. */
export interface Output {
  name: string;
  tensor?: Tensor;
  texts?: string[];
  shape: number[];
}

export interface Answer {
  outputs: Output[];
  seconds: number;
  requestId: string;
}

/** Names of all models and chains that are ready. */
export async function ready(): Promise<string[]> {
  const body = JSON.stringify({ ready: true });
  const answer = await call("/v2/repository/index", { method: "POST", body });
  return ((await answer.json()) as { name: string }[]).map((one) => one.name);
}

export function metadata(model: string): Promise<Metadata> {
  return ask<Metadata>(pathOf(model));
}

function pathOf(model: string): string {
  return `/v2/models/${encodeURIComponent(model)}`;
}

/** Runs a model on inputs by name: tensors, or strings for texts. */
export async function infer(model: string, inputs: Record<string, Tensor | string>): Promise<Answer> {
  const blobs: Uint8Array<ArrayBuffer>[] = [];
  const described = Object.entries(inputs).map(([name, value]) => {
    const [tensor, size] = typeof value === "string" ? textTensor(value) : [value, value.data.byteLength];
    blobs.push(tensor.data);
    return { name, datatype: tensor.datatype, shape: tensor.shape, parameters: { binary_data_size: size } };
  });
  const head = new TextEncoder().encode(
    JSON.stringify({ inputs: described, parameters: { binary_data_output: true } }),
  );
  const started = performance.now();
  const response = await call(`${pathOf(model)}/infer`, {
    method: "POST",
    body: new Blob([head, ...blobs]),
    headers: { "content-type": "application/octet-stream", "inference-header-content-length": String(head.length) },
  });
  const content = new Uint8Array(await response.arrayBuffer());
  const seconds = (performance.now() - started) / 1000;
  const headBytes = Number(response.headers.get("inference-header-content-length") ?? content.length);
  return { outputs: parse(content, headBytes), seconds, requestId: response.headers.get("x-request-id") ?? "" };
}

/** A string as a BYTES tensor, prefixed with its length. */
function textTensor(text: string): [Tensor, number] {
  const encoded = new TextEncoder().encode(text);
  const data = new Uint8Array(4 + encoded.length);
  new DataView(data.buffer).setUint32(0, encoded.length, true);
  data.set(encoded, 4);
  return [{ datatype: "BYTES", shape: [1], data }, data.length];
}

interface Described extends Spec {
  data?: unknown[];
  parameters?: { kind?: string; binary_data_size?: number };
}

function parse(content: Uint8Array<ArrayBuffer>, headBytes: number): Output[] {
  const head = JSON.parse(new TextDecoder().decode(content.subarray(0, headBytes))) as { outputs: Described[] };
  let at = headBytes;
  return head.outputs.map(({ name, datatype, shape, data, parameters }) => {
    const size = parameters?.binary_data_size;
    if (size === undefined) return { name, shape, texts: (data ?? []).map(String) };
    const own = content.slice(at, at + size);
    at += size;
    if (datatype === "BYTES") return { name, shape, texts: texts(own) };
    if (!(datatype in KINDS)) return { name, shape, texts: [`${size} bytes of ${datatype}`] };
    return { name, shape, tensor: { datatype, shape, data: own } };
  });
}

function texts(data: Uint8Array<ArrayBuffer>): string[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const found: string[] = [];
  for (let at = 0; at + 4 <= data.length; ) {
    const length = view.getUint32(at, true);
    found.push(new TextDecoder().decode(data.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return found;
}

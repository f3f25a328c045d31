/** NumPy's file format. Source: numpy.lib.format, versions 1.0 to 3.0. */

export interface Tensor {
  /** Name of the type in the Open Inference Protocol. */
  datatype: string;
  shape: number[];
  /** Little-endian, in C order. */
  data: Uint8Array<ArrayBuffer>;
}

interface Kind {
  npy: string;
  bytes: number;
}

/** Types that both NumPy and the Open Inference Protocol have. */
export const KINDS: Record<string, Kind> = {
  BOOL: { npy: "|b1", bytes: 1 },
  UINT8: { npy: "|u1", bytes: 1 },
  INT8: { npy: "|i1", bytes: 1 },
  UINT16: { npy: "<u2", bytes: 2 },
  INT16: { npy: "<i2", bytes: 2 },
  FP16: { npy: "<f2", bytes: 2 },
  UINT32: { npy: "<u4", bytes: 4 },
  INT32: { npy: "<i4", bytes: 4 },
  FP32: { npy: "<f4", bytes: 4 },
  UINT64: { npy: "<u8", bytes: 8 },
  INT64: { npy: "<i8", bytes: 8 },
  FP64: { npy: "<f8", bytes: 8 },
};

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

/** Reads the tensor in a `.npy` file. Throws an Error if the file is malformed or its type cannot be sent. */
export function readNpy(file: Uint8Array<ArrayBuffer>): Tensor {
  if (file.length < 12 || !MAGIC.every((byte, index) => file[index] === byte)) throw new Error("not a .npy file");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const isFirst = file[6] === 1;
  const start = isFirst ? 10 : 12;
  const end = start + (isFirst ? view.getUint16(8, true) : view.getUint32(8, true));
  const head = new TextDecoder().decode(file.subarray(start, end));
  const descr = /'descr':\s*'([^']*)'/.exec(head)?.[1];
  const shapeText = /'shape':\s*\(([^)]*)\)/.exec(head)?.[1];
  if (descr === undefined || shapeText === undefined) throw new Error("the .npy file's header cannot be read");
  if (/'fortran_order':\s*True/.test(head)) throw new Error("the .npy file is in Fortran order: save a C-ordered copy");
  const found = Object.entries(KINDS).find(([, kind]) => kind.npy.slice(1) === descr.slice(1));
  if (found === undefined || descr.startsWith(">")) throw new Error(`arrays of ${descr} cannot be sent`);
  const [datatype, { bytes }] = found;
  const shape = shapeText.split(",").filter((text) => text.trim()).map(Number);
  const size = bytes * shape.reduce((product, length) => product * length, 1);
  if (!shape.every(Number.isSafeInteger) || end + size !== file.length)
    throw new Error("the .npy file's size does not match its header");
  return { datatype, shape, data: file.slice(end) };
}

/** A tensor as a `.npy` file. */
export function writeNpy(tensor: Tensor): Blob {
  const tuple = tensor.shape.join(", ") + (tensor.shape.length === 1 ? "," : "");
  const descr = KINDS[tensor.datatype]!.npy;
  const head = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const padded = head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + padded.length);
  bytes.set([...MAGIC, 1, 0, padded.length & 255, padded.length >> 8]);
  bytes.set(new TextEncoder().encode(padded), 10);
  return new Blob([bytes, tensor.data]);
}

/** The first `most` values as numbers. */
export function valuesOf(tensor: Tensor, most: number): number[] {
  const { bytes } = KINDS[tensor.datatype]!;
  const count = Math.min(most, tensor.data.byteLength / bytes);
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, count * bytes);
  return Array.from({ length: count }, (_, index) => READ[tensor.datatype]!(view, index * bytes));
}

const READ: Record<string, (view: DataView, at: number) => number> = {
  BOOL: (view, at) => view.getUint8(at),
  UINT8: (view, at) => view.getUint8(at),
  INT8: (view, at) => view.getInt8(at),
  UINT16: (view, at) => view.getUint16(at, true),
  INT16: (view, at) => view.getInt16(at, true),
  FP16: (view, at) => half(view.getUint16(at, true)),
  UINT32: (view, at) => view.getUint32(at, true),
  INT32: (view, at) => view.getInt32(at, true),
  FP32: (view, at) => view.getFloat32(at, true),
  UINT64: (view, at) => Number(view.getBigUint64(at, true)),
  INT64: (view, at) => Number(view.getBigInt64(at, true)),
  FP64: (view, at) => view.getFloat64(at, true),
};

/** Decodes IEEE 754 binary16, which older browsers cannot. */
function half(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A tensor of numbers. Throws an Error for types that the page cannot write. */
export function tensorOf(values: ArrayLike<number>, datatype: string, shape: number[]): Tensor {
  const write = WRITE[datatype];
  if (write === undefined) throw new Error(`${datatype} can only be given as a .npy file`);
  const { bytes } = KINDS[datatype]!;
  const data = new Uint8Array(values.length * bytes);
  const view = new DataView(data.buffer);
  for (let index = 0; index < values.length; index++) write(view, index * bytes, values[index]!);
  return { datatype, shape, data };
}

const WRITE: Record<string, (view: DataView, at: number, value: number) => void> = {
  BOOL: (view, at, value) => view.setUint8(at, value ? 1 : 0),
  UINT8: (view, at, value) => view.setUint8(at, value),
  INT8: (view, at, value) => view.setInt8(at, value),
  UINT16: (view, at, value) => view.setUint16(at, value, true),
  INT16: (view, at, value) => view.setInt16(at, value, true),
  UINT32: (view, at, value) => view.setUint32(at, value, true),
  INT32: (view, at, value) => view.setInt32(at, value, true),
  INT64: (view, at, value) => view.setBigInt64(at, BigInt(Math.round(value)), true),
  FP32: (view, at, value) => view.setFloat32(at, value, true),
  FP64: (view, at, value) => view.setFloat64(at, value, true),
};

/** Pictures and sound as tensors of an input's shape. The browser decodes them. */
import { tensorOf, type Tensor } from "./npy";
import type { Spec } from "./inference";

/** Side of a picture, in pixels, where the graph takes any size: the usual size of classifiers. */
const USUAL_SIDE = 224;
const MOST_SIDE = 4096;
const SAMPLE_RATE = 16_000;
/** Longest sound, in seconds; the rest is cut off. */
const LONGEST_S = 60;

export type Scale = "0 to 255" | "0 to 1" | "-1 to 1" | "ImageNet";
export const SCALES: Scale[] = ["0 to 1", "0 to 255", "-1 to 1", "ImageNet"];
/** Mean and deviation of each color. Source: torchvision.transforms, the usual normalization of ImageNet. */
const IMAGENET = [
  [0.485, 0.229],
  [0.456, 0.224],
  [0.406, 0.225],
] as const;

interface Layout {
  channels: number;
  height: number;
  width: number;
  isChannelsFirst: boolean;
  shape: number[];
}

/** A picture as a tensor of an input's size and layout. */
export async function pictureTensor(file: Blob, spec: Spec, scale: Scale): Promise<Tensor> {
  const layout = layoutOf(spec);
  const picture = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  canvas.width = layout.width;
  canvas.height = layout.height;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(picture, 0, 0, layout.width, layout.height);
  picture.close();
  const { data } = context.getImageData(0, 0, layout.width, layout.height);
  return tensorOf(arranged(data, layout, scale), spec.datatype, layout.shape);
}

/** Whether an input is NCHW or NHWC, and its sizes; those that the graph leaves open are chosen here. */
function layoutOf(spec: Spec): Layout {
  const lengths = spec.shape.length === 3 ? [1, ...spec.shape] : spec.shape;
  if (lengths.length !== 4) throw new Error(`a picture does not fit an input of ${spec.shape.length} dimensions`);
  const isChannelsFirst = !(lengths[3] === 3 || (lengths[3] === 1 && lengths[1] !== 1));
  const [channels, height, width] = isChannelsFirst
    ? [lengths[1]!, lengths[2]!, lengths[3]!]
    : [lengths[3]!, lengths[1]!, lengths[2]!];
  const side = (length: number) => Math.min(MOST_SIDE, length > 0 ? length : USUAL_SIDE);
  const [c, h, w] = [channels === 1 ? 1 : 3, side(height), side(width)];
  const shape = isChannelsFirst ? [1, c, h, w] : [1, h, w, c];
  return {
    channels: c,
    height: h,
    width: w,
    isChannelsFirst,
    shape: spec.shape.length === 3 ? shape.slice(1) : shape,
  };
}

function arranged(pixels: Uint8ClampedArray, layout: Layout, scale: Scale): Float32Array {
  const { channels, height, width, isChannelsFirst } = layout;
  const values = new Float32Array(channels * height * width);
  for (let pixel = 0; pixel < height * width; pixel++)
    for (let channel = 0; channel < channels; channel++) {
      const at = isChannelsFirst ? channel * height * width + pixel : pixel * channels + channel;
      values[at] = scaled(colorOf(pixels, pixel, channel, channels), scale, channel);
    }
  return values;
}

/** Pixel values in the input's layout; gray where the graph takes one channel. Source: ITU-R BT.601, luma. */
function colorOf(pixels: Uint8ClampedArray, pixel: number, channel: number, channels: number): number {
  const [red, green, blue] = [pixels[4 * pixel]!, pixels[4 * pixel + 1]!, pixels[4 * pixel + 2]!];
  if (channels === 1) return 0.299 * red + 0.587 * green + 0.114 * blue;
  return [red, green, blue][channel]!;
}

function scaled(value: number, scale: Scale, channel: number): number {
  switch (scale) {
    case "0 to 255":
      return value;
    case "0 to 1":
      return value / 255;
    case "-1 to 1":
      return value / 127.5 - 1;
    case "ImageNet": {
      const [mean, deviation] = IMAGENET[channel]!;
      return (value / 255 - mean) / deviation;
    }
  }
}

/** Sound as one channel at 16 kHz, cut or padded to the length that the graph takes. */
export async function soundTensor(file: Blob, spec: Spec): Promise<Tensor> {
  const decoder = new OfflineAudioContext(1, SAMPLE_RATE, SAMPLE_RATE);
  const sound = await decoder.decodeAudioData(await file.arrayBuffer());
  const length = Math.min(LONGEST_S * SAMPLE_RATE, Math.max(1, Math.ceil(sound.duration * SAMPLE_RATE)));
  const mixer = new OfflineAudioContext(1, length, SAMPLE_RATE);
  const source = mixer.createBufferSource();
  source.buffer = sound;
  source.connect(mixer.destination);
  source.start();
  const samples = (await mixer.startRendering()).getChannelData(0);
  const fixed = spec.shape.at(-1)!;
  const values = new Float32Array(fixed > 0 ? fixed : length);
  values.set(samples.subarray(0, values.length));
  const shape = [...new Array<number>(Math.max(0, spec.shape.length - 1)).fill(1), values.length];
  return tensorOf(values, spec.datatype, shape);
}

/** Pictures that go with a question, as data URLs. */
import type { Signal } from "@preact/signals";

/** Most bytes of a picture, and most pictures of a question: the server's `MAX_PICTURE_BYTES` and `MAX_PICTURES`. */
const MOST_BYTES = 32 * 1024 * 1024;
const MOST_PICTURES = 32;

/** Adds files to `taken` and returns the first problem, or an empty text. Only what the browser can draw is taken. */
export async function readPictures(files: Iterable<File>, taken: Signal<string[]>): Promise<string> {
  for (const file of files) {
    if (taken.value.length >= MOST_PICTURES) return `a question may have at most ${MOST_PICTURES} pictures`;
    if (file.size > MOST_BYTES) return `${file.name} is larger than ${MOST_BYTES >> 20} MB`;
    try {
      (await createImageBitmap(file)).close();
    } catch {
      return `${file.name} is not a picture that the browser can show`;
    }
    taken.value = [...taken.value, await dataUrl(file)];
  }
  return "";
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error!);
    reader.readAsDataURL(file);
  });
}

/** The pictures of a question. Those that were not kept are empty strings. */
export function Thumbnails({ pictures, onRemove }: { pictures: string[]; onRemove?: (index: number) => void }) {
  if (!pictures.length) return null;
  return (
    <ul class="thumbnails" aria-label="Pictures">
      {pictures.map((url, index) => (
        <li key={index}>
          {url ? <img src={url} alt={`Picture ${index + 1}`} /> : <small>a picture that was not kept</small>}
          {onRemove && (
            <button type="button" class="link" aria-label={`Remove picture ${index + 1}`} onClick={() => onRemove(index)}>
              ×
            </button>
          )}
        </li>
      ))}
    </ul>
  );
}

/**
 * Large files on their way to the Hub's storage: the bytes themselves, whole or in parts, the parts
 * put together, and the Hub told. Each part is tried again on its own. Where storage refuses a file
 * the Hub is asked again: either it has the file, whatever became of an answer, or it gives fresh
 * addresses.
 */
import { HubError, quote } from "../errors.ts";
import type { FileBlob } from "./file_blob.ts";
import {
  type Addresses,
  askBatch,
  type BatchAsking,
  type LargeObject,
  LFS_HEADERS,
  type UploadAction,
} from "./lfs_batch.ts";
import type { BegunUpload, UploadMemory } from "./upload_memory.ts";

/** A large file; without its bytes, one that was sent before. */
export interface LargeFile extends LargeObject {
  readonly blob?: FileBlob;
}

/** How large files are sent. */
export interface LargeFileOptions extends BatchAsking {
  /** Bytes that are on their way; negative when a try has failed. */
  readonly sent: (bytes: number) => void;
  /** Bytes that need not be sent: the Hub has them. */
  readonly present: (bytes: number) => void;
  /** Remembers parts for a run that goes on with the upload. */
  readonly memory?: UploadMemory;
}

/** Objects that the Hub answers for at once. */
const BATCH = 100;

/** How often a file begins again with fresh addresses because storage refused it. */
const FRESH_STARTS = 2;

/**
 * Send large files that the Hub does not have. Of files with the same bytes, one is sent.
 *
 * @throws {HubError} the Hub or its storage refuses one, or could not be reached.
 * @throws {CheckpointError} a file changed.
 */
export async function sendLargeFiles(
  files: readonly LargeFile[],
  options: LargeFileOptions,
): Promise<void> {
  const unique = [...new Map(files.map((file) => [file.oid, file])).values()];
  const total = (list: readonly LargeObject[]) => list.reduce((sum, { size }) => sum + size, 0);
  options.present(total(files) - total(unique));
  for (let at = 0; at < unique.length; at += BATCH) {
    const some = unique.slice(at, at + BATCH);
    const actions = await askBatch(some, options);
    await together(options.signal, (signal) =>
      some.map(async (file) => {
        const action = actions.get(file.oid);
        if (action) await upload(file, action, { ...options, signal });
        else options.present(file.size);
      }));
  }
}

/** Send one file, with fresh addresses where storage refuses it. */
async function upload(
  file: LargeFile,
  action: UploadAction,
  options: LargeFileOptions,
): Promise<void> {
  const { memory } = options;
  let next: UploadAction | undefined = action;
  let begun = memory?.find(file.oid);
  for (let fresh = 0; next; fresh++) {
    let counted = 0;
    const count = (hear: (bytes: number) => void) => (bytes: number) => {
      counted += bytes;
      hear(bytes);
    };
    const [sent, present] = [count(options.sent), count(options.present)];
    try {
      if (!begun && next.parts) await memory?.began(file.oid, addressesOf(next));
      await deliver(file, begun ?? { addresses: next, etags: new Map() }, {
        ...options,
        sent,
        present,
      });
      return await tellHub(file, next, options);
    } catch (fault) {
      if (!(fault instanceof Refusal)) throw fault;
      options.sent(-counted);
      begun = undefined;
      // Storage forgets an upload that is complete, also when its answer was lost.
      next = (await askBatch([file], options)).get(file.oid);
      if (next && fresh === FRESH_STARTS) throw fault.error;
    }
  }
  options.present(file.size);
}

/** The addresses of an action, and nothing else of it. */
function addressesOf({ href, parts }: Addresses): Addresses {
  return { href, ...(parts ? { parts } : {}) };
}

/** The bytes of a file. @throws {HubError} they were there alone, and are no more. */
function bytesOf({ blob, size }: LargeFile, { sender, ask }: LargeFileOptions): FileBlob {
  if (blob) return blob;
  throw sender.transport.error(ask, {
    kind: "damaged",
    found: `the Hub does not have a file of ${size} bytes any more that was sent to it and is ` +
      "not here",
    advice: "Make the checkpoint again, with `restart`.",
  });
}

/** Bring the bytes of a file to storage. @throws {Refusal} it does not want them. */
async function deliver(
  file: LargeFile,
  { addresses: { href, parts }, etags: known }: BegunUpload,
  options: LargeFileOptions,
): Promise<void> {
  const { oid } = file, blob = bytesOf(file, options);
  if (!parts) return void await put(href, blob, options);
  const { bytes, hrefs } = parts;
  const etags = await together(options.signal, (signal) =>
    hrefs.map(async (address, i) => {
      const part = blob.slice(i * bytes, (i + 1) * bytes);
      const there = known.get(i);
      if (there !== undefined) {
        options.present(part.size);
        return there;
      }
      const etag = await putPart(address, part, { ...options, signal });
      await options.memory?.took(oid, i, etag);
      return etag;
    }));
  const { sender, ask, signal } = options;
  const url = new URL(href);
  const { text } = await refusable(() =>
    sender.post(url, {
      ask,
      again: "always",
      signal,
      headers: LFS_HEADERS,
      body: JSON.stringify({
        oid,
        parts: etags.map((etag, i) => ({ partNumber: i + 1, etag })),
      }),
    }), { url, options });
  // Storage may begin its answer before it knows how it ends.
  if (/<Error>|"error"\s*:/.test(text)) throw refusal(url, "with an error", options);
}

/** Send a part of a file; its ETag. @throws {Refusal} storage does not want it, or gives none. */
async function putPart(href: string, blob: FileBlob, options: LargeFileOptions): Promise<string> {
  const etag = (await put(href, blob, options)).get("etag");
  if (!etag) throw refusal(new URL(href), "without an ETag", options);
  return etag;
}

/** Send a file or a part of one. @throws {Refusal} storage does not want it. */
async function put(href: string, blob: FileBlob, options: LargeFileOptions): Promise<Headers> {
  const { sender, signal, sent, repo } = options;
  const ask = { doing: `upload a file to ${quote(repo.id)}` };
  const url = new URL(href);
  const { headers } = await refusable(
    () => sender.put(url, blob, { ask, signal, sent }),
    { url, options },
  );
  return headers;
}

/** Tell the Hub that a file is there, where it asks for that (git-lfs, “Verification”). */
async function tellHub(
  { oid, size }: LargeObject,
  { verify }: UploadAction,
  { sender, ask, signal }: LargeFileOptions,
): Promise<void> {
  if (!verify) return;
  try {
    await sender.post(new URL(verify.href), {
      ask,
      again: "always",
      signal,
      headers: { ...verify.header, ...LFS_HEADERS },
      body: JSON.stringify({ oid, size }),
    });
  } catch (fault) {
    if (!isRefusal(fault)) throw fault;
    throw sender.transport.error(ask, {
      kind: "damaged",
      found: `the Hub does not find a file of ${size} bytes that was just sent (${fault.status})`,
      advice: "Run the same command again.",
      status: fault.status,
    });
  }
}

/** Storage does not want what it was sent: an address has expired, an upload is not known. */
class Refusal extends Error {
  /** What to tell if there is no help. */
  readonly error: HubError;
  constructor(error: HubError) {
    super(error.message);
    this.error = error;
  }
}

interface RefusalContext {
  readonly url: URL;
  readonly options: LargeFileOptions;
}

async function refusable<T>(work: () => Promise<T>, { url, options }: RefusalContext): Promise<T> {
  try {
    return await work();
  } catch (fault) {
    if (!isRefusal(fault)) throw fault;
    throw refusal(url, String(fault.status), options, fault.status);
  }
}

function refusal(
  url: URL,
  how: string,
  { sender, repo }: LargeFileOptions,
  status?: number,
): Refusal {
  return new Refusal(
    sender.transport.error({ doing: `upload a file to ${quote(repo.id)}` }, {
      kind: status === 403 ? "forbidden" : "protocol",
      found: `${quote(url.host)}, where the Hub keeps files, answers ${how}`,
      advice: "Run the same command again: what is there already is not sent twice.",
      status,
      url,
    }),
  );
}

/** Whether a server does not want what it was sent. */
function isRefusal(fault: unknown): fault is HubError {
  return fault instanceof HubError && fault.status !== undefined && fault.status >= 400 &&
    fault.status < 500 && fault.kind !== "rate-limited";
}

/**
 * Wait for all of several tasks. The first that fails stops the others, which are waited for too.
 *
 * @param begin Begins them; what their signal stops is theirs to see.
 */
async function together<T>(
  signal: AbortSignal | undefined,
  begin: (signal: AbortSignal) => readonly Promise<T>[],
): Promise<T[]> {
  signal?.throwIfAborted();
  const all = new AbortController();
  const stop = () => all.abort(signal!.reason);
  signal?.addEventListener("abort", stop);
  try {
    const tasks = begin(all.signal);
    try {
      return await Promise.all(tasks);
    } catch (fault) {
      all.abort(fault);
      await Promise.allSettled(tasks);
      throw fault;
    }
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

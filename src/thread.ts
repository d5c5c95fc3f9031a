/** Threads of this process: programs in JavaScript that messages are exchanged with. */

/** What is heard of a thread. */
export interface ThreadEvents<T> {
  onMessage(message: T): void;
  /** It has failed, and will not be heard of again; the process goes on. */
  onFailure(message: string): void;
}

/**
 * Start a thread by the text of its module. From a data: URL no permission is needed.
 *
 * @param name Shown by what lists threads.
 */
export function startThread<T>(
  source: string,
  name: string,
  { onMessage, onFailure }: ThreadEvents<T>,
): Worker {
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const worker = new Worker(url, { type: "module", name });
  worker.onmessage = ({ data }: MessageEvent<T>) => onMessage(data);
  worker.onerror = (event) => {
    event.preventDefault();
    onFailure(event.message);
  };
  return worker;
}

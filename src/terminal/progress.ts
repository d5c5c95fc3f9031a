/**
 * Events as a person or a program wants them: a bar with the time left on a terminal, a line per
 * tenth elsewhere, JSON lines, a log with the time of day. Each is a {@linkcode View}; several may
 * watch one run.
 */
import defer * as cliProgress from "cli-progress";
import { styleText } from "node:util";
import type { TextStream } from "./command.ts";
import type { Event, Reporter } from "../report.ts";
import { limitSentence } from "../report/certificate.ts";
import { Estimate } from "./estimate.ts";
import { eventDocument, jsonLine } from "./json.ts";
import { duration, measured, plural, visible, visibleMessage } from "./text.ts";
import { size } from "../size.ts";

/** Something that shows events. It is done with when disposed of. */
export interface View extends Disposable {
  report: Reporter;
}

/** Clock of the views, in seconds; a test gives another. */
export type Clock = () => number;

const realClock: Clock = () => performance.now() / 1000;

/** Every view at once. */
export function allViews(views: readonly View[]): View {
  return {
    report(event) {
      for (const view of views) view.report(event);
    },
    [Symbol.dispose]() {
      for (const view of views) view[Symbol.dispose]();
    },
  };
}

/** Each event as one line of JSON. */
export function jsonView(out: TextStream): View {
  return { report: (event) => out.write(jsonLine(eventDocument(event))), [Symbol.dispose]() {} };
}

/** Every event as a line with the time of day. */
export function logView(log: { write(line: string): void } & Disposable): View {
  return {
    report: (event) => log.write(`${new Date().toISOString()} ${describe(event)}\n`),
    [Symbol.dispose]: () => log[Symbol.dispose](),
  };
}

/** A line at every tenth of the way, and every warning. */
export function lineView(err: TextStream, clock: Clock = realClock): View {
  let estimate = new Estimate(clock);
  let tenths = 0;
  return {
    report(event) {
      if (event.type === "start") {
        estimate = new Estimate(clock);
        tenths = 0;
      }
      const place = follow(estimate, event);
      if (isLine(event)) err.write(`sluice: ${describe(event)}\n`);
      const reached = Math.floor(estimate.share * 10);
      if (place === undefined || reached <= tenths) return;
      tenths = reached;
      const left = estimate.left;
      const time = reached === 10 || left === undefined ? "" : `, about ${duration(left)} left`;
      err.write(`sluice: ${reached * 10} %  ${place}  ${duration(estimate.elapsed)}${time}\n`);
    },
    [Symbol.dispose]() {},
  };
}

/** Milliseconds after which the bar's time is told anew. */
const TICK = 1000;

/** What is used of cli-progress, which comes without types. */
interface Bar {
  start(total: number, value: number, payload: Readonly<Record<string, string>>): void;
  update(value: number, payload: Readonly<Record<string, string>>): void;
  stop(): void;
}
type BarClass = new (options: Readonly<Record<string, unknown>>) => Bar;

/**
 * A bar in the last line of a terminal, gone when it is done.
 *
 * @param options.signal When it is aborted the bar makes way for a line about that, and goes on
 *   below.
 */
export function barView(
  err: TextStream,
  { colors, signal, clock = realClock }: {
    readonly colors: boolean;
    readonly signal?: AbortSignal;
    readonly clock?: Clock;
  },
): View {
  let estimate = new Estimate(clock);
  const paint = (text: string) =>
    colors ? styleText("cyan", text, { validateStream: false }) : text;
  // A line that does not fit would scroll the terminal: the place is cut to what is left of the
  // width.
  const width = Math.max(10, Math.min(30, err.columns - 50));
  const room = () => Math.max(0, err.columns - width - 34);
  const SingleBar = cliProgress.default.SingleBar as BarClass;
  const bar = new SingleBar({
    stream: { write: (text: string) => err.write(text), isTTY: true, columns: err.columns },
    format: `${paint("{bar}")} {percentage}% {place} {time}`,
    barsize: width,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    // A line never reaches the margin; a process that is killed would leave the terminal without.
    linewrap: true,
    clearOnComplete: true,
    emptyOnZero: true,
    fps: 8,
  });
  let running = false;
  let last = "";
  let ticking: ReturnType<typeof setInterval> | undefined;
  const show = (place: string) => {
    last = place;
    const left = estimate.left;
    const time = duration(estimate.elapsed) +
      (left === undefined ? "" : `, ${duration(left)} left`);
    const payload = { place: cut(place, room()), time };
    if (running) bar.update(estimate.share, payload);
    else bar.start(1, estimate.share, payload);
    running = true;
    // Minutes may pass between two events, in which the time goes on.
    ticking ??= setInterval(() => show(last), TICK);
  };
  const stop = () => {
    clearInterval(ticking);
    ticking = undefined;
    if (running) bar.stop();
    running = false;
  };
  signal?.addEventListener("abort", stop);
  return {
    report(event) {
      if (event.type === "start") estimate = new Estimate(clock);
      const place = follow(estimate, event);
      if (isLine(event)) {
        stop();
        err.write(`sluice: ${describe(event)}\n`);
      }
      if (event.type === "finished") stop();
      else if (place !== undefined) show(place);
    },
    [Symbol.dispose]() {
      signal?.removeEventListener("abort", stop);
      stop();
    },
  };
}

/** Whether an event is a line of its own, whatever the progress. */
function isLine({ type }: Event): boolean {
  return type === "start" || type === "resumed" || type === "warning" || type === "tried";
}

function cut(text: string, length: number): string {
  return text.length <= length
    ? text
    : length < 2
    ? ""
    : `…${text.slice(text.length - length + 1)}`;
}

/** Count an event's work; the place it speaks of, if it moves the run on. */
function follow(estimate: Estimate, event: Event): string | undefined {
  switch (event.type) {
    case "start":
      estimate.expect({
        bytes: event.bytes * (event.outputs ?? 1),
        windows: event.windows ?? 0,
      });
      return "";
    case "resumed":
      estimate.resume(event);
      return "";
    case "quantized":
      estimate.addBytes(event.bytes);
      return ofOutput(event) + visible(event.tensor.name);
    case "copied":
      estimate.addCopied(event.bytes);
      return ofOutput(event) + visible(event.name);
    // A verification has no windows, and a block takes about as long to look through.
    case "examined":
    case "advanced":
      estimate.expect({ windows: event.total });
      estimate.setWindows(event.done);
      return visible(event.block);
    default:
      return undefined;
  }
}

/** The output that an event concerns, where there are several. */
function ofOutput({ output }: Event): string {
  return output === undefined ? "" : `${visible(output)}: `;
}

/** One event as a plain line without a newline. */
export function describe(event: Event): string {
  return ofOutput(event) + happened(event);
}

function happened(event: Event): string {
  switch (event.type) {
    case "start":
      return `${visible(event.what)}: ${event.tensors} tensors, ${size(event.bytes)}, ${
        event.outputs === undefined ? "" : `for ${plural(event.outputs, "output")}, `
      }on ${visible(event.device)}`;
    case "quantized": {
      const { name, scheme, bitsPerWeight, metrics, calibration } = event.tensor;
      const facts = {
        ...metrics,
        output_error: calibration?.outputError,
        loss: calibration?.loss,
        damping: calibration?.damping,
        strength: calibration?.strength,
        input_scale: calibration?.inputScale,
      };
      const numbers = Object.entries(facts).map(([name, x]) =>
        x === undefined ? "" : ` ${name}=${measured(x)}`
      );
      return `quantized ${visible(name)}: ${scheme}, ${bitsPerWeight.toFixed(3)} bits per weight${
        numbers.join("")
      }`;
    }
    case "resumed":
      return `going on after ${event.units} of ${
        plural(event.of, "unit")
      }, which an earlier run did`;
    case "copied":
      return `copied ${visible(event.name)}: ${size(event.bytes)}`;
    case "examined":
      return `looked for moved scales in ${visible(event.block)}: ${event.done} of ${
        plural(event.total, "block")
      }`;
    case "advanced":
      return `evaluated ${visible(event.block)}: ${event.done} of ${event.total} window-blocks`;
    case "warning":
      return `warning: ${visibleMessage(event.message)}`;
    case "committed":
      return `wrote ${visible(event.path)}: ${size(event.bytes)}`;
    case "uploaded":
      return `uploaded ${visible(event.path)}: ${size(event.bytes)}`;
    case "tried":
      return `try ${event.number} of at most ${event.of}, ${event.method} at ` +
        `${event.bitsPerWeight.toFixed(3)} bits per weight: ` +
        event.limits.map(limitSentence).join("; ");
    case "scored":
      return `scored ${
        Object.values(event.scores).flatMap((score) => Object.entries(score))
          .map(([name, x]) => `${name}=${measured(x)}`).join(" ")
      }`;
    case "finished":
      return `finished in ${duration(event.seconds)}, at most ${size(event.peakBytes)} of memory`;
  }
}

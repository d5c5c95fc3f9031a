/**
 * When a request is tried again: which faults are worth another try, how many of them, and after
 * how long.
 */
import type { HubError } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { redact } from "./redact.ts";
import type { Ask, Failure } from "./refusals.ts";
import { backoff, LONGEST_WAIT, type Timing } from "./timing.ts";

/** Tries again when no server has ever answered: without a network, nobody should wait for long. */
const FIRST_CONTACT_RETRIES = 2;
/** Milliseconds of a wait that the user hears of. */
const TOLD_WAIT = 5000;
/**
 * Bytes that count as progress: a connection that dies after fewer, again and again, is of no use.
 */
const PROGRESS = 64 * 2 ** 10;

/** A fault that may be gone the next time. */
export class TransientFault extends Error {
  readonly failure: Failure;
  /** Milliseconds after which to try again, if the server said so. */
  readonly wait: number | undefined;
  constructor(failure: Failure, wait?: number) {
    super(failure.found);
    this.failure = failure;
    this.wait = wait;
  }
}

/** What a retry policy must know of the transport. */
export interface Retrying {
  readonly retries: number;
  readonly timing: Timing;
  /** Whether a server has ever answered. */
  readonly reached: boolean;
  readonly report: Reporter;
  readonly token: string | undefined;
  /** The error of a failure. */
  error(ask: Ask, failure: Failure): HubError;
}

/** How often, and after how long, one thing is asked for again. */
export class RetryPolicy {
  readonly #transport: Retrying;
  readonly #ask: Ask;
  readonly #signal: AbortSignal | undefined;
  #failures = 0;
  #received = 0;

  constructor(
    transport: Retrying,
    { ask, signal }: { ask: Ask; signal: AbortSignal | undefined },
  ) {
    this.#transport = transport;
    this.#ask = ask;
    this.#signal = signal;
  }

  /** Some bytes came: with enough of them, earlier failures are forgotten. */
  progressed(bytes: number): void {
    this.#received += bytes;
    if (this.#received < PROGRESS) return;
    this.#received = 0;
    this.#failures = 0;
  }

  /**
   * Wait before the next try.
   *
   * @throws {HubError} it failed too often, or the server wants to be left alone for too long.
   * @throws what `fault` is, when it is not a `TransientFault`.
   */
  async failed(fault: unknown): Promise<void> {
    if (!(fault instanceof TransientFault)) throw fault;
    const { timing, retries, reached, report, token } = this.#transport;
    this.#failures++;
    const most = reached ? retries : Math.min(retries, FIRST_CONTACT_RETRIES);
    const { wait, failure } = fault;
    if (wait !== undefined && wait > LONGEST_WAIT) {
      throw this.#transport.error(this.#ask, {
        ...failure,
        advice: `It asks to wait ${Math.ceil(wait / 60_000)} minutes: come back then.`,
      });
    }
    if (this.#failures > most) {
      const found = most === 0 ? failure.found : `${failure.found}, ${most + 1} times`;
      throw this.#transport.error(this.#ask, { ...failure, found });
    }
    const pause = wait ?? backoff(this.#failures, timing);
    if (pause >= TOLD_WAIT) {
      report({
        type: "warning",
        code: "waiting",
        message: redact(`${failure.found}: waiting ${Math.ceil(pause / 1000)} seconds.`, [token]),
      });
    }
    await timing.wait(pause, this.#signal);
  }
}

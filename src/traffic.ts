/**
 * What passes between the host and a device that has memory of its own, as counters: on a GPU time
 * is lost in waits and in bytes on their way before it is lost in kernels.
 */

/** Counts since the device was opened, or of a part of a run. */
export interface Traffic {
  /** Calls of ops. */
  readonly dispatches: number;
  /** Times that queued work was handed to the device. */
  readonly submits: number;
  /**
   * Times that the host waited until the device had done all that was queued; reads under way at
   * once wait together.
   */
  readonly waits: number;
  /** Those of the waits that brought tensors back. */
  readonly reads: number;
  /** Bytes to the device. */
  readonly uploaded: number;
  /** Bytes back. */
  readonly downloaded: number;
}

/** Nothing passed. */
export const NO_TRAFFIC: Traffic = {
  dispatches: 0,
  submits: 0,
  waits: 0,
  reads: 0,
  uploaded: 0,
  downloaded: 0,
};

/** `sum`, and `times` as much as `other` on top. */
export function addTraffic(sum: Traffic, other: Traffic, times = 1): Traffic {
  const added = (name: keyof Traffic) => sum[name] + times * other[name];
  return {
    dispatches: added("dispatches"),
    submits: added("submits"),
    waits: added("waits"),
    reads: added("reads"),
    uploaded: added("uploaded"),
    downloaded: added("downloaded"),
  };
}

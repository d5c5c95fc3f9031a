/** How many bytes of what are held at once: what a plan counts and a run keeps to. */

/** Logits of one stream. */
export const LOGIT_BYTES = 64 * 2 ** 20;

/** A stack's states and gradients, up to which none are computed anew on the way back. */
export const TAPE_BYTES = 2 ** 30;

/** The embedding table, or the output head, on the device at once, counted as f32. */
export const TABLE_BYTES = 64 * 2 ** 20;

/** Slices that are read ahead of the computation; one slice at least. */
export const READ_AHEAD_BYTES = 8 * 2 ** 20;

/** Packed slices that are still being written while the computation goes on. */
export const WRITE_BEHIND_BYTES = 32 * 2 ** 20;

/** Pieces that copied tensors are read in. */
export const COPY_BYTES = 8 * 2 ** 20;

/**
 * On the device, what is not counted one by one: histograms, sums, lists of columns, rotary tables.
 */
export const SMALL_BYTES = 2 ** 20;

/** Hidden states that wait on a GPU to go to disk together, of each state of a stream. */
export const SPILL_BYTES = 32 * 2 ** 20;

/**
 * Memory of a GPU that waits to be used again, and as much that was given up and is still in use:
 * what a stack of windows takes and leaves in a model of 8 billion parameters.
 */
export const POOL_BYTES = 512 * 2 ** 20;

/** Bytes that are kept of each token behind each block to tell how far two models are apart. */
export const STREAM_ERROR_BYTES = 8;

/** Files or parts that are sent at the same time. */
export const SENT_AT_ONCE = 4;

/**
 * Bytes that sending holds in buffers. Files and parts are read as they go, however large they are;
 * measured on Linux with Deno 2.9 are up to 18 MB for each that is on its way.
 */
export const SENDING_BYTES: number = SENT_AT_ONCE * 18e6;

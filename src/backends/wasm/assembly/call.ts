// How a kernel learns what to do. One control block in shared memory holds the arguments of the op
// being run; every thread reads it and takes work items from one counter until none is left. Items
// do not depend on the number of threads, and one item writes all it writes alone, so the result's
// bytes do not depend on it either. pool.ts is the host's side.
//
// Memory: every tensor has SLACK bytes after its end, which kernels may read and overwrite; flat
// loops need no tail. Module globals are private to a thread (each has an instance of its own).

const NEXT: usize = 80;
const DONE: usize = 84;
const SCRATCH: usize = 88;
const TENSORS: usize = 128;
const DIMS: usize = 256;
const SCALARS: usize = 320;

/** Bytes of scratch memory a thread has. */
export const SCRATCH_BYTES: i32 = 1 << 20;

/** Elements of one work item of a flat op. */
export const CHUNK: i32 = 1 << 14;

export const F32: i32 = 0;
export const BF16: i32 = 1;
export const F16: i32 = 2;
export const F8: i32 = 3;

/** Address of argument `i`, in binding order. */
@inline
export function tensor(i: i32): usize {
  return load<u32>(TENSORS + (<usize>i << 3));
}

/** Dtype of argument `i`: F32, BF16, F16, F8; 4 for any other. */
@inline
export function dtype(i: i32): i32 {
  return load<i32>(TENSORS + (<usize>i << 3), 4);
}

/** Dimension `i`, in order of first appearance in the signature. */
@inline
export function dim(i: i32): i32 {
  return load<i32>(DIMS + (<usize>i << 2));
}

@inline
export function scalarU(i: i32): i32 {
  return load<i32>(SCALARS + (<usize>i << 2));
}

@inline
export function scalarF(i: i32): f32 {
  return load<f32>(SCALARS + (<usize>i << 2));
}

/** The next work item. */
@inline
export function claim(): i32 {
  return atomic.add<i32>(NEXT, 1);
}

/** The first element of the next chunk of a flat op. */
@inline
export function claimChunk(): i32 {
  return claim() * CHUNK;
}

/** Count a finished item; the number of items finished before it. */
@inline
export function finishItem(): i32 {
  return atomic.add<i32>(DONE, 1);
}

/** This thread's scratch memory. */
@inline
export function scratch(thread: i32): usize {
  return <usize>load<u32>(SCRATCH) + <usize>(thread * SCRATCH_BYTES);
}

/** ceil(a / b) */
@inline
export function ceilDiv(a: i32, b: i32): i32 {
  return (a + b - 1) / b;
}

/** Rows of `columns` elements in a work item. */
@inline
export function rowsPerItem(columns: i32): i32 {
  return max(1, CHUNK / max(1, columns));
}

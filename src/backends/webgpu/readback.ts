/**
 * Tensors on their way out: side by side in few staging buffers, so that many cost one wait (about
 * 11 ms in Deno).
 */
import { deviceBytes } from "../../op.ts";
import { byteLength } from "../../tensor.ts";
import type { BufferPool } from "./buffers.ts";
import type { GpuTensor } from "./tensor.ts";

/** Bytes of one staging buffer; a larger tensor has one to itself. */
const STAGING_BYTES = 64 * 2 ** 20;
/** `getMappedRange` copies, and ranges above this are slowed by page faults. */
const PIECE_BYTES = 8 * 2 ** 20;

/** A staging buffer and what is in it. */
export interface Parcel {
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  readonly items: readonly Item[];
}

/** A tensor in a parcel, and its place among all that were asked for. */
interface Item {
  readonly tensor: GpuTensor;
  readonly offset: number;
  readonly index: number;
}

/** Put tensors into as few staging buffers as their size allows. */
export function pack(tensors: readonly GpuTensor[], staging: BufferPool): Parcel[] {
  const groups: { items: Item[]; bytes: number }[] = [];
  tensors.forEach((tensor, index) => {
    let group = groups.at(-1);
    if (!group || group.bytes + tensor.boundBytes > STAGING_BYTES) {
      groups.push(group = { items: [], bytes: 0 });
    }
    group.items.push({ tensor, offset: group.bytes, index });
    group.bytes += tensor.boundBytes;
  });
  return groups.map(({ items, bytes }) => ({ items, bytes, buffer: staging.take(bytes) }));
}

/** Queue the copies. */
export function copyIn(device: GPUDevice, parcels: readonly Parcel[]): void {
  const encoder = device.createCommandEncoder();
  for (const { items, buffer } of parcels) {
    for (const { tensor, offset } of items) {
      encoder.copyBufferToBuffer(tensor.buffer, 0, buffer, offset, deviceBytes(tensor));
    }
  }
  device.queue.submit([encoder.finish()]);
}

/** The tensors' bytes, in the order they were asked for, from parcels that are mapped. */
export function unpack(parcels: readonly Parcel[]): Uint8Array<ArrayBuffer>[] {
  const results: Uint8Array<ArrayBuffer>[] = [];
  for (const { items, buffer } of parcels) {
    for (const { tensor, offset, index } of items) {
      results[index] = copyOut(buffer, { offset, bytes: byteLength(tensor) });
    }
  }
  return results;
}

function copyOut(
  buffer: GPUBuffer,
  { offset, bytes }: { readonly offset: number; readonly bytes: number },
): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(bytes);
  for (let from = 0; from < bytes; from += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, bytes - from);
    const range = buffer.getMappedRange(offset + from, Math.ceil(length / 4) * 4);
    result.set(new Uint8Array(range, 0, length), from);
  }
  return result;
}

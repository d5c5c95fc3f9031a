/**
 * How much memory a GPU has left. WebGPU does not tell, so that it is tried: buffers are made until
 * the device refuses one, and destroyed. Nothing is written to them.
 */

/** Bytes of each buffer of a trial. */
const STEP = 2 ** 30;

/** Of what there is when there is not enough, a share is left to the driver and to others. */
const RESERVE = 1 / 8;

/** Bytes, up to some, that the device lets tensors take. */
export async function tryRoom(device: GPUDevice, upTo: number): Promise<number> {
  const step = Math.min(STEP, device.limits.maxBufferSize - device.limits.maxBufferSize % 4);
  const buffers: GPUBuffer[] = [];
  let found = 0;
  try {
    while (found < upTo) {
      device.pushErrorScope("out-of-memory");
      buffers.push(device.createBuffer({ size: step, usage: GPUBufferUsage.STORAGE }));
      if (await device.popErrorScope()) return found * (1 - RESERVE);
      found += step;
    }
    return upTo;
  } finally {
    for (const buffer of buffers) buffer.destroy();
  }
}

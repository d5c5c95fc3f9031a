/** A method chooses codes for a scheme. It reads weights and statistics; it does no I/O and knows no format. Implementations: methods/. */
import type { Scope, Tensor } from "./backend.ts";
import type { Option, OptionValues } from "./option.ts";
import type { Quantized, Scheme } from "./scheme.ts";

/** A weight, or one slice of its rows, already on the device. */
export interface Job {
  /** The tensor's name in the checkpoint, for messages. */
  readonly name: string;
  /** f32|bf16|f16[R, C]. */
  readonly weight: Tensor;
  readonly scheme: Scheme;
  readonly options: OptionValues;
  /** The result's tensors are allocated here. */
  readonly scope: Scope;
}

/** A way of choosing codes. */
export interface Method {
  readonly name: string;
  readonly summary: string;
  /** Rows that become flags, help and recipe keys. */
  readonly options: readonly Option[];
  /** Statistics of a linear's input that it must have seen; none for a data-free method. */
  readonly needs: readonly string[];
  /** Whether quantizing slices of rows equals quantizing the whole (slices being multiples of the scheme's `rowStep`). */
  readonly rowSeparable: boolean;
  /** Whether it chooses codes for this scheme, with these options if they are given. */
  supports(scheme: Scheme, options?: OptionValues): true | string;
  quantize(job: Job): Promise<Quantized>;
}

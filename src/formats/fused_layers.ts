/**
 * Layers that inference engines (vLLM, SGLang) multiply as one, by the names they have in the
 * field's models.
 */

/**
 * What the whole is called, by the name of a part within its block (vLLM's
 * `packed_modules_mapping`).
 */
const WHOLES: Readonly<Record<string, string>> = {
  q_proj: "qkv_proj",
  k_proj: "qkv_proj",
  v_proj: "qkv_proj",
  query: "qkv_proj",
  key: "qkv_proj",
  value: "qkv_proj",
  gate_proj: "gate_up_proj",
  up_proj: "gate_up_proj",
  w1: "gate_up_proj",
  w3: "gate_up_proj",
  q_a_proj: "fused_qkv_a_proj",
  kv_a_proj_with_mqa: "fused_qkv_a_proj",
  in_proj_qkv: "in_proj_qkvz",
  in_proj_z: "in_proj_qkvz",
  in_proj_b: "in_proj_ba",
  in_proj_a: "in_proj_ba",
};

/**
 * The name of the whole that a layer is a part of, by its own name: `qkv_proj` for `q_proj`;
 * undefined for one that stays alone.
 */
export function wholeOf(leaf: string): string | undefined {
  return Object.hasOwn(WHOLES, leaf) ? WHOLES[leaf] : undefined;
}

/**
 * The path of the whole that a module is a part of: `model.layers.0.self_attn.qkv_proj`; of an
 * expert all experts of its layer, `model.layers.0.mlp.experts`; undefined for one that stays
 * alone.
 */
export function fusedPath(module: string): string | undefined {
  const experts = /^(.*\.experts)\.\d+\./.exec(module)?.[1];
  if (experts !== undefined) return experts;
  const dot = module.lastIndexOf(".") + 1;
  const whole = wholeOf(module.slice(dot));
  return whole === undefined ? undefined : module.slice(0, dot) + whole;
}

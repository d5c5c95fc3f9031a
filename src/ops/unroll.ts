/** WGSL templates: GPUs run a loop whose steps are written out a third faster. */

/**
 * WGSL with its loops written out: what stands between a line `#repeat i 8` and its `#end` comes
 * eight times, with 0 … 7 for `$i`. A count may be a name in `counts`; loops may be nested.
 *
 * @throws {RangeError} a count is neither a number nor in `counts`.
 * @throws {SyntaxError} a loop has no end, or an end no loop.
 */
export function unroll(wgsl: string, counts: Readonly<Record<string, number>>): string {
  const innermost = /^#repeat (\w+) (\w+)\n((?:(?!#).*\n)*)#end\n/gm;
  const next = wgsl.replace(innermost, (_, name: string, times: string, body: string) => {
    const count = counts[times] ?? Number(times);
    if (!Number.isInteger(count)) {
      throw new RangeError(`Cannot write a loop out: "#repeat ${name} ${times}" has no count`);
    }
    return Array.from({ length: count }, (_, i) => body.replaceAll(`$${name}`, String(i))).join("");
  });
  if (next !== wgsl) return unroll(next, counts);
  const [left] = /^#.*$/m.exec(wgsl) ?? [];
  if (left) throw new SyntaxError(`Cannot write a loop out: "${left}" and "#end" do not match`);
  return wgsl;
}

/** From the library's words for options to the flags of a command. Pure. */

/** What the library calls by another name than the flag has. */
const FLAGS: ReadonlyMap<string, string> = new Map([
  ["budgets.ram", "max-ram"],
  ["budgets.vram", "max-vram"],
  ["budgets.disk", "max-disk"],
  ["evaluation", "evaluate"],
]);

/**
 * A message in which the options that the library names, in backticks (`numSamples`), are the flags
 * they were or can be given as (--num-samples; --no-resume for `resume` false). Of other names
 * nothing is changed.
 *
 * @param knows Whether the command has a flag.
 */
export function withFlags(message: string, knows: (flag: string) => boolean): string {
  return message.replace(/`([\w.-]+)`( false\b)?/g, (word, option: string, off?: string) => {
    const flag = FLAGS.get(option) ??
      option.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
    return knows(flag) ? `--${off === undefined ? "" : "no-"}${flag}` : word;
  });
}

/** How a repository of the Hub is named where a folder could be, too. */

/** Whether a word names a repository of the Hub to meet in, and not a folder. */
export function isHubPlace(word: string): boolean {
  return /^(?:hf|https?):\/\//i.test(word);
}

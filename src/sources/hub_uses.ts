/**
 * Which bytes of which files will be read, in which order, and how much of that is still to come.
 * Pure bookkeeping, nothing is read here.
 */

/** Bytes `[begin, end)` of a file. */
export interface FileSpan {
  readonly file: string;
  readonly begin: number;
  readonly end: number;
}

/** A span that is to be read, and how much of it was not read yet. */
interface Use extends FileSpan {
  readonly position: number;
  left: number;
}

/** The uses of one file, in order. */
interface FileUses {
  readonly uses: readonly Use[];
  /** Index of the first that is not done. */
  first: number;
  /** Bytes of all that are not done. */
  left: number;
}

/** The order of reading. */
export class Uses {
  readonly #files = new Map<string, FileUses>();

  constructor(order: readonly FileSpan[]) {
    const files = Map.groupBy(
      order.map((span, position): Use => ({ ...span, position, left: span.end - span.begin }))
        .filter(({ left }) => left > 0),
      ({ file }) => file,
    );
    for (const [file, uses] of files) {
      this.#files.set(file, { uses, first: 0, left: uses.reduce((n, { left }) => n + left, 0) });
    }
  }

  /** Bytes were read: the first use that they are a part of has that much less to come. */
  consume({ file, begin, end }: FileSpan): void {
    const known = this.#files.get(file);
    if (!known) return;
    const { uses } = known;
    for (let i = known.first; i < uses.length; i++) {
      const use = uses[i]!;
      if (use.left === 0 || use.begin > begin || use.end < end) continue;
      const taken = Math.min(use.left, end - begin);
      use.left -= taken;
      known.left -= taken;
      while (uses[known.first]?.left === 0) known.first++;
      return;
    }
  }

  /** Bytes of a file still to be read. */
  left(file: string): number {
    return this.#files.get(file)?.left ?? 0;
  }

  /** Of those, the bytes that are read before `position`. */
  leftBefore(file: string, position: number): number {
    let bytes = 0;
    for (const use of this.#rest(file)) if (use.position < position) bytes += use.left;
    return bytes;
  }

  /** When a file is read next: a place in the order, Infinity for never. */
  next(file: string): number {
    const known = this.#files.get(file);
    return known?.uses[known.first]?.position ?? Infinity;
  }

  /** When a file is read for the last time, −1 for never. */
  last(file: string): number {
    return this.#rest(file).findLast(({ left }) => left > 0)?.position ?? -1;
  }

  /** The spans of a file still to be read, in order. */
  spans(file: string): readonly FileSpan[] {
    return this.#rest(file).filter(({ left }) => left > 0);
  }

  /** Files still to be read, the next one first. */
  files(): string[] {
    return [...this.#files.keys()].filter((file) => this.left(file) > 0)
      .sort((a, b) => this.next(a) - this.next(b));
  }

  #rest(file: string): readonly Use[] {
    const known = this.#files.get(file);
    return known ? known.uses.slice(known.first) : [];
  }
}

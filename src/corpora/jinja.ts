/**
 * Jinja as chat templates use it: Hugging Face's interpreter, made to agree with Python where
 * templates notice, and bounded, for a template is a program of a stranger. Refused: templates that
 * are too large, that take too much work, or whose loops the interpreter would cut.
 */
import { Environment, Interpreter, Template } from "@huggingface/jinja";

/** A template, parsed. */
export type Program = Template["parsed"];

type Node = Parameters<Interpreter["evaluate"]>[0];
type Value = ReturnType<Interpreter["evaluate"]>;

/** What is read here of the parser's tree, whose types the library keeps to itself. */
interface Tree {
  readonly type: string;
  readonly body?: readonly Tree[];
  readonly alternate?: readonly Tree[];
  readonly defaultBlock?: readonly Tree[];
}

/** `callee(args)` */
type Call = NonNullable<Node> & {
  readonly callee: NonNullable<Node> & {
    readonly object?: Node;
    readonly property?: { readonly value?: unknown };
    readonly computed?: boolean;
  };
  readonly args: readonly Node[];
};

/** `operand | filter` or `operand | filter(…)` */
type Filter = NonNullable<Node> & {
  readonly operand: Node;
  readonly filter: { readonly value?: unknown; readonly callee?: { readonly value?: unknown } };
};

/**
 * Characters of the largest template: the longest of known models have some 20,000, and time to
 * parse may grow with the square.
 */
const LARGEST_TEMPLATE = 2 ** 16;

/** Numbers that `range` gives at most, as in transformers' sandbox. */
const LONGEST_RANGE = 100_000;

/** A template's own refusal (`raise_exception`): it is not made for what it was given. */
export class Raised extends Error {}

/**
 * Parse a template, blocks trimmed as transformers does.
 *
 * @throws {Error} it is no Jinja, Jinja that is not known, too large, or has a loop that would be
 * cut.
 */
export function parseTemplate(text: string): Program {
  if (text.length > LARGEST_TEMPLATE) {
    throw new Error(`it has ${text.length} characters, at most ${LARGEST_TEMPLATE} are read`);
  }
  // Python's reader makes every end of a line one character.
  const program = new Template(text.replace(/\r\n?/g, "\n")).parsed;
  checkLoops(program.body as readonly Tree[], false);
  return program;
}

/**
 * What a template writes.
 *
 * @param options.work the most it may do: 1 for an expression, 1 for an element of what it gives,
 * 1/16 for a character.
 * @throws {Raised} it refuses its variables.
 * @throws {Error} it fails on them, or takes more work.
 */
export function renderTemplate(
  program: Program,
  { variables, work, strftimeNow }: {
    readonly variables: Readonly<Record<string, unknown>>;
    readonly work: number;
    /** Today, in Python's notation. */
    strftimeNow(format: string): string;
  },
): string {
  const environment = new Environment();
  const globals = {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: unknown) => {
      throw new Raised(String(message));
    },
    strftime_now: strftimeNow,
  };
  for (const [name, value] of Object.entries({ ...globals, ...variables })) {
    environment.set(name, value);
  }
  return String(new BoundedInterpreter(environment, work).run(program).value);
}

/**
 * The interpreter with a bound on its work; whatever is done to a value, the value was evaluated
 * before, and paid for by its size.
 */
class BoundedInterpreter extends Interpreter {
  #left: number;

  constructor(environment: Environment, work: number) {
    super(environment);
    this.#left = work;
  }

  override evaluate(node: Node, environment: Environment): Value {
    if (node?.type === "FilterExpression") this.#checkFilter(node as Filter, environment);
    const value = node?.type === "CallExpression"
      ? this.#strip(node as Call, environment) ?? super.evaluate(node, environment)
      : super.evaluate(node, environment);
    refuseAsText(value);
    this.#pay(1 + sizeOf(value));
    return value;
  }

  #pay(work: number): void {
    this.#left -= work;
    if (this.#left < 0) throw new Error("it takes too long, or writes too much");
  }

  /**
   * `text.strip("\n")`: the library would take all white space away, Python only the characters
   * that are named.
   */
  #strip({ callee, args }: Call, environment: Environment): Value | undefined {
    const name = callee.type === "MemberExpression" && !callee.computed && callee.property?.value;
    if (name !== "strip" && name !== "lstrip" && name !== "rstrip" || args.length !== 1) {
      return undefined;
    }
    const { value: text } = this.evaluate(callee.object, environment);
    const { value: characters } = this.evaluate(args[0], environment);
    if (typeof text !== "string" || typeof characters !== "string") {
      throw new Error(`${name}() is asked of what is no text`);
    }
    let [from, to] = [0, text.length];
    if (name !== "rstrip") { while (from < to && characters.includes(text[from]!)) from++; }
    if (name !== "lstrip") { while (to > from && characters.includes(text[to - 1]!)) to--; }
    return new Environment().set("text", text.slice(from, to));
  }

  /**
   * Filters that go through a whole tree, in which one list may stand many times: each time is paid
   * for.
   */
  #checkFilter({ operand, filter }: Filter, environment: Environment): void {
    const name = filter.value ?? filter.callee?.value;
    if (name !== "tojson" && name !== "string") return;
    const value = this.evaluate(operand, environment);
    // Python writes it in its own notation, the library as JSON.
    if (name === "string" && childrenOf(value)) value.toString();
    const waiting = [value];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      this.#pay(1 + sizeOf(next));
      for (const child of childrenOf(next) ?? []) waiting.push(child);
    }
  }
}

/** The values in a list or mapping; undefined for other values. */
function childrenOf({ value }: Value): Iterable<Value> | undefined {
  return Array.isArray(value) ? value : value instanceof Map ? value.values() : undefined;
}

/**
 * Make a list or mapping refuse to be written or added to a text, as Python does when a template
 * that expects texts is given a content of parts; the library would write `[object Object]`.
 * Compared with a text it is another thing, and no error.
 */
function refuseAsText(value: Value): void {
  if (!childrenOf(value)) return;
  const toString = () => {
    const kind = Array.isArray(value.value) ? "list" : "mapping";
    throw new Error(`it writes a ${kind} as if it were text`);
  };
  Object.assign(value, { toString });
  Object.assign(value.value as object, { toString, [Symbol.toPrimitive]: () => Symbol() });
}

function sizeOf({ value }: Value): number {
  if (typeof value === "string") return value.length / 16;
  return Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= LONGEST_RANGE)) throw new Error(`range() has ${length} numbers`);
  return Array.from({ length }, (_, i) => from + i * step);
}

/**
 * Refuse loops that may write something and then `continue` or `break`: the interpreter forgets
 * what that turn of the loop has written.
 *
 * @returns whether these statements may have written something
 */
function checkLoops(statements: readonly Tree[], written: boolean): boolean {
  for (const { type, body = [], alternate = [], defaultBlock = [] } of statements) {
    switch (type) {
      case "Break":
      case "Continue":
        if (written) {
          throw new Error(
            `one of its loops writes text and then ends its turn (${type.toLowerCase()}), ` +
              "which is not known here",
          );
        }
        break;
      case "If": {
        const ways = [checkLoops(body, written), checkLoops(alternate, written)];
        written = ways.includes(true);
        break;
      }
      case "For":
        checkLoops(body, false);
        checkLoops(defaultBlock, false);
        written = true;
        break;
      case "Set":
      case "Macro":
        checkLoops(body, false);
        break;
      case "Comment":
        break;
      default:
        checkLoops(body, false);
        written = true;
    }
  }
  return written;
}

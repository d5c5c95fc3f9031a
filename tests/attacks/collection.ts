/**
 * Hostile and broken checkpoints, built here byte by byte, each with the error it must meet. Used
 * by attacks_test.ts on the reader and by the command line's tests on exit codes.
 */

/** A file to write: its bytes, and its size when it goes on with zeros. */
export type AttackFile = Uint8Array | { readonly start: Uint8Array; readonly size: number };

/** A checkpoint that must be refused. */
export interface Attack {
  /** What is wrong with it, unique. */
  readonly name: string;
  /** Files by path in the attack's folder. */
  readonly files: Readonly<Record<string, AttackFile>>;
  /** Links by path in the attack's folder. */
  readonly links?: Readonly<Record<string, string>>;
  /** What to open, relative to the attack's folder; "" is the folder. */
  readonly open: string;
  readonly error: "CheckpointError" | "RequestError";
  /** What the sentence must say. */
  readonly says: RegExp;
}

/** Write an attack's files into an empty folder. @returns the path to open */
export async function writeAttack(attack: Attack, folder: string): Promise<string> {
  for (const [path, file] of Object.entries(attack.files)) {
    const place = `${folder}/${path}`;
    await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
    await Deno.writeFile(place, file instanceof Uint8Array ? file : file.start);
    if (!(file instanceof Uint8Array)) await Deno.truncate(place, file.size);
  }
  for (const [path, target] of Object.entries(attack.links ?? {})) {
    await Deno.symlink(target, `${folder}/${path}`);
  }
  return attack.open === "" ? folder : `${folder}/${attack.open}`;
}

function text(content: string): Uint8Array {
  return new TextEncoder().encode(content);
}

function raw(...bytes: number[]): Uint8Array {
  return Uint8Array.from(bytes);
}

function join(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** `u64` little-endian. */
function length(n: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(n), true);
  return bytes;
}

/** A safetensors file with a header as it stands and `data` zeros. */
function file(header: string | Uint8Array, data = 0): Uint8Array {
  const bytes = typeof header === "string" ? text(header) : header;
  const whole = new Uint8Array(8 + bytes.length + data);
  whole.set(length(bytes.length));
  whole.set(bytes, 8);
  return whole;
}

/** One entry of a header. */
function entry(name: string, shape = "[2]", offsets = "[0,8]", dtype = '"F32"'): string {
  return `${JSON.stringify(name)}:{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`;
}

/** A file that is right, with the tensors named, of 8 bytes each. */
function good(...names: string[]): Uint8Array {
  const entries = names.map((name, i) => entry(name, "[2]", `[${i * 8},${i * 8 + 8}]`));
  return file(`{${entries.join(",")}}`, names.length * 8);
}

const PLACEHOLDER = '"a":';

/** The value of the entry "a" replaced. */
function value(json: string, data = 8): Uint8Array {
  return file(`{${PLACEHOLDER}${json}}`, data);
}

type Case = readonly [name: string, content: AttackFile, says: RegExp];

/** Files that are no safetensors files at all. */
const IMPOSTORS: readonly Case[] = [
  ["an empty file", raw(), /it is empty/],
  ["one byte", raw(2), /only 1 bytes/],
  ["seven bytes", raw(2, 0, 0, 0, 0, 0, 0), /only 7 bytes/],
  ["a length and nothing else", length(2), /only 8 bytes/],
  [
    "a Git-LFS pointer",
    text(
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n",
    ),
    /Git-LFS pointer.*git lfs pull/,
  ],
  [
    "an HTML page",
    text("<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"),
    /an HTML page/,
  ],
  [
    "an HTML page after white space and a byte order mark",
    text("\ufeff\n\n  <html lang=en><body>429</body></html>"),
    /an HTML page/,
  ],
  [
    "a storage server's XML error",
    text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    /an XML document/,
  ],
  ["the Hub's message that a file is missing", text("Entry not found"), /“not found” message/],
  ["a JSON error", text('{"error":"Repository not found"}'), /JSON text without the length/],
  ["a JSON list", text('["Repository not found"]'), /JSON text/],
  [
    "a PyTorch zip",
    join(raw(0x50, 0x4b, 3, 4, 0, 0, 8, 8, 0, 0), text("archive/data.pkl")),
    /PyTorch's pickles/,
  ],
  [
    "a PyTorch zip whose start reads as a small length",
    { start: raw(0x50, 0x4b, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0), size: 80_000_000 },
    /PyTorch's pickles/,
  ],
  [
    "a bare pickle of protocol 2",
    join(raw(0x80, 2, 0x7d, 0x71, 0), text("cposix\nsystem\n")),
    /a Python pickle.*run code/,
  ],
  ["a bare pickle of protocol 4", join(raw(0x80, 4, 0x95, 1), text("framed data")), /pickle/],
  [
    "a GGUF file",
    join(text("GGUF"), raw(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    /a GGUF file/,
  ],
  ["a gzip file", raw(0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 0, 3, 1, 2), /a gzip file/],
  [
    "a gzip file without a time, whose start reads as a small length",
    { start: raw(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2), size: 1_000_000 },
    /a gzip file/,
  ],
  ["a Zstandard file", raw(0x28, 0xb5, 0x2f, 0xfd, 4, 0, 1, 0, 0, 1, 2), /a Zstandard file/],
  ["an xz file", raw(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4, 1, 2), /an xz file/],
  ["a bzip2 file", text("BZh91AY&SY12345"), /a bzip2 file/],
  ["a 7z file", raw(0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c, 0, 4, 1, 2), /a 7z file/],
  ["an HDF5 file", raw(0x89, 0x48, 0x44, 0x46, 13, 10, 26, 10, 0, 0), /an HDF5 file/],
  ["a NumPy file", join(raw(0x93), text("NUMPY"), raw(1, 0, 118, 0)), /a NumPy file/],
  ["a program", join(raw(0x7f), text("ELF"), raw(2, 1, 1, 0, 0, 0, 0)), /a program/],
  [
    "a tar file",
    join(text("model.bin".padEnd(257, "\0")), text("ustar\0"), new Uint8Array(249)),
    /a tar file/,
  ],
  ["a file of zeros", new Uint8Array(4096), /full of zeros/],
  ["ten letters", text("abcdefghij"), /cut short, damaged, or no safetensors file/],
];

/** Lengths that lie. */
const LENGTHS: readonly Case[] = [
  ["a length of zero", join(length(0), text("{}")), /does not begin with|header length of 0/],
  ["a length of one", join(length(1), text("{}")), /header of 1 bytes/],
  ["a length one byte past the end", join(length(3), text("{}")), /only 2 follow/],
  ["a length of 2^64 - 1", join(length(2n ** 64n - 1n), text("{}")), /18446744073709551615/],
  ["a length of 2^63", join(length(2n ** 63n), text("{}")), /9223372036854775808 bytes/],
  ["a length of 2^53 + 1", join(length(2n ** 53n + 1n), text("{}")), /9007199254740993 bytes/],
  ["a length in big-endian", join(length(2).toReversed(), text("{}")), /only 2 follow/],
  [
    "a header over the limit",
    { start: join(length(25_000_001), text("{")), size: 25_000_009 },
    /its header has 25 MB, more than the 25 MB that are accepted/,
  ],
  [
    "a header of 100 MB and one byte",
    { start: join(length(100_000_001), text("{")), size: 100_000_009 },
    /its header has 100 MB, more than the 25 MB/,
  ],
  ["a file cut in its header", good("a").subarray(0, 30), /only 22 follow/],
  [
    "a file cut in its header, whose length begins like a pickle",
    join(length(640), text(`{${entry("a")}}`)),
    /header length of 640 bytes, but only/,
  ],
  ["a file cut in its data", good("a").subarray(0, -1), /It is cut short/],
  [
    "a header that ends early",
    file('{"a":{"dtype":"F32"'),
    /ends where a comma or “}” in an entry was expected/,
  ],
];

/** Text that is not the JSON of a header. */
const SYNTAX: readonly Case[] = [
  ["white space before the header", file(" {}"), /does not begin with “{”/],
  ["a byte order mark", file("\ufeff{}"), /does not begin with “{”/],
  ["an array at the top", file("[]"), /does not begin with “{”/],
  ["a number at the top", file("12"), /does not begin with “{”/],
  ["bytes that are not UTF-8", file(join(text('{"'), raw(0xff, 0xfe), text('":1}'))), /not UTF-8/],
  [
    "an overlong UTF-8 slash",
    file(join(text('{"'), raw(0xc0, 0xaf), text('":1}'))),
    /not UTF-8/,
  ],
  [
    "a surrogate in UTF-8",
    file(join(text('{"'), raw(0xed, 0xa0, 0x80), text('":1}'))),
    /not UTF-8/,
  ],
  ["padding with NUL", file("{}\0\0\0\0"), /where nothing more was expected/],
  ["two headers", file("{}{}"), /where nothing more was expected/],
  ["a comma at the end", file(`{${entry("a")},}`, 8), /where a string \(a key\)/],
  ["a comma at the start", file(`{,${entry("a")}}`, 8), /where a string \(a key\)/],
  ["no comma between tensors", file(`{${entry("a")}${entry("b", "[0]", "[8,8]")}}`, 8), /a comma/],
  ["no colon", file('{"a"{}}'), /where a colon was expected/],
  ["a key without quotes", file("{a:1}"), /where a string \(a key\)/],
  ["a key in single quotes", file("{'a':1}"), /where a string \(a key\)/],
  ["a comment", file(`{/**/${entry("a")}}`, 8), /where a string \(a key\)/],
  ["a string without an end", file('{"a'), /ends within a string/],
  ["a string that ends in a backslash", file('{"a\\'), /ends within a string/],
  ["a line break in a string", file('{"a\nb":1}'), /control character that is not escaped/],
  ["an unknown escape", file('{"\\x41":1}'), /broken escape/],
  ["a broken \\u escape", file('{"\\u12g4":1}'), /broken escape/],
  ["half a surrogate pair", file('{"\\ud800":1}'), /half a surrogate pair/],
  [
    "200,000 nested arrays",
    value(`{"x":${"[".repeat(200_000)}`),
    /more than 64 levels/,
  ],
  ["65 levels in an unknown key", value(`{"x":${"[".repeat(63)}${"]".repeat(63)}}`), /64 levels/],
  ["a NaN in an unknown key", value('{"x":NaN}'), /where a value was expected/],
  ["a leading zero in an unknown key", value('{"x":01}'), /a comma or “}”/],
];

/** Keys that come twice. */
const DUPLICATES: readonly Case[] = [
  ["a tensor twice, in the same place", file(`{${entry("a")},${entry("a")}}`, 8), /"a" twice/],
  [
    "a tensor twice, in another place",
    file(`{${entry("a")},${entry("a", "[2]", "[8,16]")}}`, 16),
    /the key "a" twice in the header/,
  ],
  [
    "a tensor twice, once escaped",
    file(`{${entry("a")},"\\u0061":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, 16),
    /"a" twice/,
  ],
  ["__metadata__ twice", file('{"__metadata__":{},"__metadata__":{}}'), /"__metadata__" twice/],
  ["a metadata key twice", file('{"__metadata__":{"a":"b","a":"c"}}'), /"a" twice/],
  [
    "dtype twice",
    value('{"dtype":"U8","dtype":"F32","shape":[2],"data_offsets":[0,8]}'),
    /"dtype" twice/,
  ],
  [
    "data_offsets twice",
    value('{"dtype":"F32","shape":[2],"data_offsets":[0,4],"data_offsets":[0,8]}'),
    /"data_offsets" twice/,
  ],
  [
    "a key twice in an unknown key's value",
    value('{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":{"y":1,"y":2}}'),
    /"y" twice/,
  ],
];

/** Values of the wrong kind. */
const VALUES: readonly Case[] = [
  ["a tensor that is a number", value("1"), /an entry, an object/],
  ["a tensor that is null", value("null"), /an entry, an object/],
  ["a tensor that is an array", value("[]"), /an entry, an object/],
  ["no dtype", value('{"shape":[2],"data_offsets":[0,8]}'), /no “dtype” for tensor "a"/],
  ["no shape", value('{"dtype":"F32","data_offsets":[0,8]}'), /no “shape”/],
  ["no data_offsets", value('{"dtype":"F32","shape":[2]}'), /no “data_offsets”/],
  ["an unknown dtype", file(`{${entry("a", "[2]", "[0,8]", '"F33"')}}`, 8), /dtype "F33"/],
  ["a dtype in small letters", file(`{${entry("a", "[2]", "[0,8]", '"f32"')}}`, 8), /"f32"/],
  ["a dtype named after a method", file(`{${entry("a", "[]", "[0,8]", '"valueOf"')}}`, 8), /dtype/],
  ["a dtype that is a number", file(`{${entry("a", "[2]", "[0,8]", "32")}}`, 8), /a string/],
  ["a shape that is a number", file(`{${entry("a", "2")}}`, 8), /“shape”, an array/],
  ["a size with a fraction", file(`{${entry("a", "[2.0]")}}`, 8), /in plain digits/],
  ["a size with an exponent", file(`{${entry("a", "[2e0]")}}`, 8), /in plain digits/],
  ["a size with a capital exponent", file(`{${entry("a", "[2E0]")}}`, 8), /in plain digits/],
  ["a negative size", file(`{${entry("a", "[-2]")}}`, 8), /not negative/],
  ["two negative sizes", file(`{${entry("a", "[-1,-2]")}}`, 8), /not negative/],
  ["minus zero", file(`{${entry("a", "[-0]", "[0,0]")}}`), /not negative/],
  ["a leading zero", file(`{${entry("a", "[02]")}}`, 8), /in plain digits/],
  ["a plus sign", file(`{${entry("a", "[+2]")}}`, 8), /in plain digits/],
  ["a hexadecimal size", file(`{${entry("a", "[0x2]")}}`, 8), /a comma or “]”/],
  ["a size in quotes", file(`{${entry("a", '["2"]')}}`, 8), /in plain digits/],
  ["a size that is null", file(`{${entry("a", "[null]")}}`, 8), /in plain digits/],
  ["a size that is true", file(`{${entry("a", "[true]")}}`, 8), /in plain digits/],
  ["a size that is an array", file(`{${entry("a", "[[2]]")}}`, 8), /in plain digits/],
  ["a size of 2^53", file(`{${entry("a", "[0,9007199254740992]", "[0,0]")}}`), /over 90071992/],
  ["a size of 2^64", file(`{${entry("a", "[18446744073709551616]")}}`, 8), /over 9007199254740991/],
  ["a size of 400 digits", file(`{${entry("a", `[${"9".repeat(400)}]`)}}`, 8), /over 9007199254/],
  ["17 dimensions", file(`{${entry("a", `[${Array(17).fill(1)}]`, "[0,4]")}}`, 4), /more than 16/],
  ["offsets that are one number", file(`{${entry("a", "[2]", "[8]")}}`, 8), /1 numbers/],
  ["offsets that are three numbers", file(`{${entry("a", "[2]", "[0,8,8]")}}`, 8), /more than 2/],
  ["no offsets", file(`{${entry("a", "[2]", "[]")}}`, 8), /0 numbers/],
  ["a negative offset", file(`{${entry("a", "[2]", "[-8,0]")}}`, 8), /not negative/],
  ["an offset with a fraction", file(`{${entry("a", "[2]", "[0,8.0]")}}`, 8), /in plain digits/],
  ["metadata that is a string", file('{"__metadata__":"pt"}'), /“__metadata__”, an object/],
  ["metadata that is an array", file('{"__metadata__":[]}'), /“__metadata__”, an object/],
  ["a metadata value that is a number", file('{"__metadata__":{"a":1}}'), /the value of "a"/],
  ["a metadata value that is null", file('{"__metadata__":{"a":null}}'), /the value of "a"/],
  ["a metadata value that is an object", file('{"__metadata__":{"a":{}}}'), /the value of "a"/],
];

/** Places that do not add up. */
const SPANS: readonly Case[] = [
  ["offsets in the wrong order", file(`{${entry("a", "[2]", "[8,0]")}}`, 8), /offsets \[8, 0\]/],
  ["a span too short", file(`{${entry("a", "[2]", "[0,7]")}}`, 7), /takes 8 bytes/],
  ["a span too long", file(`{${entry("a", "[2]", "[0,9]")}}`, 9), /takes 8 bytes/],
  ["a scalar with an empty span", file(`{${entry("a", "[]", "[0,0]")}}`), /takes 4 bytes/],
  ["an empty tensor with a span", file(`{${entry("a", "[0]", "[0,8]")}}`, 8), /takes 0 bytes/],
  [
    "a product of 2^64 that wraps to 0",
    file(`{${entry("a", "[4294967296,4294967296]", "[0,0]", '"U8"')}}`),
    /takes 18446744073709551616 bytes/,
  ],
  [
    "a product of 2^96",
    file(`{${entry("a", "[4294967296,4294967296,4294967296]", "[0,8]", '"U8"')}}`, 8),
    /takes 79228162514264337593543950336 bytes/,
  ],
  [
    "a product that a double would round",
    file(`{${entry("a", "[9007199254740991,3]", "[0,8]", '"U8"')}}`, 8),
    /takes 27021597764222973 bytes/,
  ],
  ["an odd count of 4-bit elements", file(`{${entry("a", "[3]", "[0,1]", '"F4"')}}`, 1), /whole/],
  [
    "6-bit elements that do not fill bytes",
    file(`{${entry("a", "[2]", "[0,2]", '"F6_E2M3"')}}`, 2),
    /do not fill whole bytes/,
  ],
  ["a hole at the start", file(`{${entry("a", "[2]", "[8,16]")}}`, 16), /They are apart/],
  [
    "a hole in the middle",
    file(`{${entry("a")},${entry("b", "[2]", "[16,24]")}}`, 24),
    /tensor "a" ends at byte \d+ and tensor "b" begins.*They are apart/,
  ],
  ["tensors that overlap", file(`{${entry("a")},${entry("b", "[2]", "[4,12]")}}`, 12), /overlap/],
  ["two tensors in one place", file(`{${entry("a")},${entry("b")}}`, 8), /They overlap/],
  [
    "an empty tensor within another",
    file(`{${entry("a")},${entry("b", "[0]", "[4,4]")}}`, 8),
    /They overlap/,
  ],
  ["a byte after the last tensor", file(`{${entry("a")}}`, 9), /Nothing may follow/],
  [
    "a zip after the last tensor",
    join(good("a"), text("PK\x03\x04payload")),
    /Nothing may follow the last tensor/,
  ],
  ["bytes without a tensor", file("{}", 8), /Nothing may follow/],
  ["a tensor past the end", file(`{${entry("a", "[4]", "[0,16]")}}`, 8), /It is cut short/],
  [
    "a tensor of 8 petabytes",
    file(`{${entry("a", "[9007199254740991]", "[0,9007199254740991]", '"U8"')}}`, 8),
    /It is cut short/,
  ],
  [
    "a tensor that ends where the file's length, header included, does",
    file(`{${entry("a", "[3]", "[0,12]")}}`, 8),
    /It is cut short/,
  ],
];

/** Names that are traps. */
const NAMES: readonly Case[] = [
  ["an empty name", file(`{${entry("")}}`, 8), /names a tensor "", which is empty/],
  ["a NUL in a name", file(`{${entry("a\0b")}}`, 8), /"a\\u0000b", which holds a control/],
  ["an escape sequence in a name", file(`{${entry("\x1b[2Ja")}}`, 8), /"\\u001b\[2Ja"/],
  ["a C1 control in a name", file(`{${entry("a\x9bb")}}`, 8), /"a\\u009bb"/],
  ["a line break in a name", file(`{${entry("a\nb")}}`, 8), /control character/],
  ["the name __proto__", file(`{${entry("__proto__")}}`, 8), /no name for a tensor/],
  ["a name of 1025 characters", file(`{${entry("a".repeat(1025))}}`, 8), /longer than 1024/],
  [
    "a name that turns text around, with a fault",
    file(`{${entry("a\u202eb", "[3]")}}`, 8),
    /"a\\u202eb"/,
  ],
];

const CONFIG = '{"model_type":"llama"}';

/** A folder's attack. */
function folder(
  name: string,
  files: Readonly<Record<string, AttackFile>>,
  says: RegExp,
  links?: Readonly<Record<string, string>>,
): Attack {
  return { name, files, open: "", error: "CheckpointError", says, ...(links ? { links } : {}) };
}

/** A folder with a good shard "s.safetensors" (tensor "a") and an index as it stands. */
function indexed(name: string, index: string | Uint8Array, says: RegExp): Attack {
  return folder(name, {
    "config.json": text(CONFIG),
    "s.safetensors": good("a"),
    "model.safetensors.index.json": typeof index === "string" ? text(index) : index,
  }, says);
}

/** A folder with a good shard and an index that puts tensor "a" into `shard`. */
function shardNamed(shard: string, says: RegExp): Attack {
  return indexed(
    `a shard named ${JSON.stringify(shard)}`,
    JSON.stringify({ metadata: {}, weight_map: { a: shard } }),
    says,
  );
}

/** A folder with a good file and a config.json as it stands. */
function configured(name: string, config: string | Uint8Array, says: RegExp): Attack {
  return folder(name, {
    "model.safetensors": good("a"),
    "config.json": typeof config === "string" ? text(config) : config,
  }, says);
}

const FOLDERS: readonly Attack[] = [
  {
    name: "a path where nothing is",
    files: {},
    open: "nothing",
    error: "RequestError",
    says: /no such file or folder/,
  },
  {
    name: "a path through a file",
    files: { "a.safetensors": good("a") },
    open: "a.safetensors/b",
    error: "RequestError",
    says: /no such file or folder/,
  },
  folder("an empty folder", {}, /the folder is empty/),
  folder(
    "a folder of text",
    { "config.json": text(CONFIG), "notes.txt": text("hello") },
    /no safetensors file, only "config.json", "notes.txt"/,
  ),
  folder(
    "a folder of pickles",
    { "pytorch_model.bin": text("x") },
    /"pytorch_model.bin".*run code/,
  ),
  folder("a folder of .pt files", { "a.pt": text("x"), "b.pth": text("x") }, /"a.pt", "b.pth"/),
  folder(
    "a folder of GGUF files",
    { "model-q4.gguf": text("GGUF") },
    /that the GGUF file was made/,
  ),
  folder("a folder of ONNX files", { "model.onnx": text("x") }, /ONNX/),
  folder("a folder of Keras files", { "tf_model.h5": text("x") }, /Convert the weights/),
  folder("a folder in place of a file", { "model.safetensors/x": text("x") }, /is not a file/),
  folder("a link that leads nowhere", {}, /link that leads nowhere/, {
    "model.safetensors": "../gone",
  }),
  folder("a link to itself", {}, /link that leads nowhere/, {
    "model.safetensors": "model.safetensors",
  }),
  folder("a device in place of a file", {}, /is not a file/, { "model.safetensors": "/dev/zero" }),
  folder(
    "a tensor in two files without an index",
    { "a.safetensors": good("x"), "b.safetensors": good("x") },
    /tensor "x" is also in "a.safetensors"/,
  ),
  folder(
    "shards of which one is missing, without an index",
    { "model-00001-of-00002.safetensors": good("a") },
    /1 of the 2 shards named "model-…-of-…".*number 2/,
  ),
  folder(
    "shards with the wrong numbers",
    {
      "model-00001-of-00002.safetensors": good("a"),
      "model-00003-of-00002.safetensors": good("b"),
    },
    /number 2 is the first that is missing/,
  ),
  folder(
    "one bad shard of two",
    {
      "model-00001-of-00002.safetensors": good("a"),
      "model-00002-of-00002.safetensors": file("{}", 1),
    },
    /"model-00002-of-00002.safetensors"/,
  ),
  folder(
    "two indexes of two models",
    {
      "a.safetensors.index.json": text('{"weight_map":{"a":"s.safetensors"}}'),
      "b.safetensors.index.json": text('{"weight_map":{"a":"s.safetensors"}}'),
      "s.safetensors": good("a"),
    },
    /2 indexes/,
  ),
  indexed("an index that is a Git-LFS pointer", "version https://git-lfs.github.com/", /Git-LFS/),
  indexed("an index that is an HTML page", "<html></html>", /an HTML page/),
  indexed("an index that is a pickle", raw(0x80, 4, 0x95, 0, 0), /a Python pickle/),
  indexed("an empty index", "", /ends where the index, an object/),
  indexed("an index that is an array", "[]", /the index, an object/),
  indexed("an index without weight_map", '{"metadata":{}}', /no “weight_map”/),
  indexed("an index with an empty weight_map", '{"weight_map":{}}', /empty “weight_map”/),
  indexed("an index with a list as weight_map", '{"weight_map":["a"]}', /“weight_map”, an object/),
  indexed("an index with a number as shard", '{"weight_map":{"a":1}}', /the name of a shard/),
  indexed(
    "an index with a tensor twice",
    '{"weight_map":{"a":"s.safetensors","a":"t.safetensors"}}',
    /"a" twice/,
  ),
  indexed(
    "an index with two weight_maps",
    '{"weight_map":{"a":"s.safetensors"},"weight_map":{}}',
    /"weight_map" twice/,
  ),
  indexed("an index that nests", `{"x":${"[".repeat(100_000)}`, /64 levels/),
  indexed("an index that is not UTF-8", join(text('{"'), raw(0xff), text('":1}')), /not UTF-8/),
  indexed("an index cut short", '{"weight_map":{"a":"s.safe', /ends within a string/),
  indexed(
    "an index with a tensor that its shard does not hold",
    '{"weight_map":{"a":"s.safetensors","b":"s.safetensors"}}',
    /says it holds tensor "b", but it does not/,
  ),
  indexed(
    "an index with a shard that is not in the folder",
    '{"weight_map":{"a":"gone.safetensors"}}',
    /1 of 1 shards that are not in the folder \("gone.safetensors"\)/,
  ),
  indexed(
    "an index with a shard in other letters",
    '{"weight_map":{"a":"S.safetensors"}}',
    /not in the folder \("S.safetensors"\)/,
  ),
  folder(
    "an index that puts a tensor in the wrong shard",
    {
      "a.safetensors": good("a"),
      "b.safetensors": good("b"),
      "model.safetensors.index.json": text(
        '{"weight_map":{"a":"b.safetensors","b":"a.safetensors"}}',
      ),
    },
    /says it holds tensor "a", but it does not/,
  ),
  folder(
    "an index over the limit",
    {
      "s.safetensors": good("a"),
      "model.safetensors.index.json": { start: text("{"), size: 100_000_001 },
    },
    /100 MB, more than the 100 MB that are accepted/,
  ),
  shardNamed("../s.safetensors", /leads to another folder/),
  shardNamed("sub/s.safetensors", /leads to another folder/),
  shardNamed("..\\s.safetensors", /leads to another folder/),
  shardNamed("/etc/passwd", /leads to another folder/),
  shardNamed("//host/s.safetensors", /leads to another folder/),
  shardNamed("\\\\host\\share\\s.safetensors", /leads to another folder/),
  shardNamed("..", /leads to another folder/),
  shardNamed("", /has an empty part/),
  shardNamed("C:s.safetensors", /holds a colon/),
  shardNamed("https:s.safetensors", /holds a colon/),
  shardNamed("%2e%2e%2fs.safetensors", /leads to another folder/),
  shardNamed("%252e%252e%252fs.safetensors", /leads to another folder/),
  shardNamed("..%5cs.safetensors", /leads to another folder/),
  shardNamed("%25252525252fs.safetensors", /leads to another folder|not in the folder/),
  shardNamed("s.safetensors%00", /control character/),
  shardNamed("s\u0000.safetensors", /control character/),
  shardNamed("s\u001b[2J.safetensors", /control character/),
  shardNamed("s.safetensors ", /ends in a dot or a space/),
  shardNamed("s.safetensors.", /ends in a dot or a space/),
  shardNamed("NUL.safetensors", /Windows reserves/),
  shardNamed(`${"s".repeat(300)}.safetensors`, /longer than 255 bytes/),
  shardNamed("pytorch_model.bin", /no safetensors file/),
  shardNamed("config.json", /no safetensors file/),
  configured("a config that is an array", "[]", /the configuration, an object/),
  configured("a config that is a string", '"llama"', /the configuration, an object/),
  configured("a config that is null", "null", /the configuration, an object/),
  configured("an empty config", "", /ends where the configuration/),
  configured("a config that is no JSON", "model_type: llama", /the configuration, an object/),
  configured("a config with NaN", '{"a":NaN}', /where a value was expected/),
  configured("a config with a comment", '{/* x */"a":1}', /a string \(a key\)/),
  configured("a config cut short", '{"a":', /ends where a value was expected/),
  configured("a config with more after it", "{} {}", /nothing more was expected/),
  configured("a config that nests", `{"a":${"[".repeat(200_000)}`, /64 levels/),
  configured(
    "a config that is not UTF-8",
    join(text('{"a":"'), raw(0xe9), text('"}')),
    /not UTF-8/,
  ),
  configured("a config with a byte order mark", '\ufeff{"a":1}', /"\\ufeff/),
  configured("a config that is an HTML page", "<!doctype html><p>401", /an HTML page/),
  folder(
    "a config over the limit",
    { "model.safetensors": good("a"), "config.json": { start: text("{"), size: 10_000_001 } },
    /10 MB, more than the 10 MB that are accepted/,
  ),
  folder(
    "a folder in place of the config",
    { "model.safetensors": good("a"), "config.json/x": text("x") },
    /"config.json": it is not a file/,
  ),
  folder(
    "a licence that is a link to a private file",
    { "model.safetensors": good("a") },
    /"LICENSE": it is a link to "\/etc\/hosts"/,
    { "LICENSE": "/etc/hosts" },
  ),
  folder(
    "a tokenizer that is a link out of the folder",
    { "model.safetensors": good("a") },
    /"tokenizer.json": it is a link to/,
    { "tokenizer.json": "/etc/hosts" },
  ),
];

/** Every attack. */
export const attacks: readonly Attack[] = [
  ...[IMPOSTORS, LENGTHS, SYNTAX, DUPLICATES, VALUES, SPANS, NAMES].flat().map((
    [name, content, says],
  ): Attack => ({
    name,
    files: { "model.safetensors": content },
    open: "model.safetensors",
    error: "CheckpointError",
    says,
  })),
  ...FOLDERS,
];

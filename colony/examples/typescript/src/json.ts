// JSON from outside: bounded and unambiguous first, then held to the published schema of what it should be.

import { readFileSync } from "node:fs";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export const MAX_BYTES = 8 * 1024 * 1024;
const MAX_DEPTH = 32;

export class BadJson extends Error {
  constructor(readonly problems: { pointer: string; detail: string }[]) {
    const first = problems[0]!;
    super(`${first.pointer || "the body"}: ${first.detail}`);
  }
}

/** One JSON text; BadJson when it is none, too deep, names a member twice, or holds text that cannot be stored. */
export function parse(bytes: Uint8Array): Json {
  const bad = (detail: string): BadJson => new BadJson([{ pointer: "", detail }]);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw bad("not UTF-8");
  }
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch {
    throw bad("not JSON");
  }
  const problem = ambiguity(text);
  if (problem) throw bad(problem);
  return value;
}

/** Walks over the tokens of a text that is JSON: its depth, the members of each object, and its strings. */
function ambiguity(text: string): string | null {
  const open: (Set<string> | null)[] = []; // the names of each object that is open, null for a list
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"\s*:?|[{}[\]]/gs)) {
    if (token === "{" || token === "[") {
      if (open.push(token === "{" ? new Set() : null) > MAX_DEPTH) return `nested deeper than ${MAX_DEPTH} levels`;
    } else if (token === "}" || token === "]") {
      open.pop();
    } else {
      const isName = token.endsWith(":");
      const said = JSON.parse(isName ? token.slice(0, -1) : token) as string;
      if (said.includes("\0")) return "a text contains NUL";
      if (/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(said)) return "a text contains a lone surrogate";
      const names = open.at(-1);
      if (isName && names?.has(said)) return "an object names the same member twice";
      if (isName) names?.add(said);
    }
  }
  return null;
}

type Misfits = Generator<{ pointer: string; detail: string }>;

interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  type?: string;
  const?: Json;
  enum?: Json[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  patternProperties?: Record<string, Schema>;
  propertyNames?: Schema;
  minProperties?: number;
  maxProperties?: number;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  format?: string;
  minimum?: number;
  maximum?: number;
}

const FORMATS: Record<string, RegExp> = {
  uuid: /^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/,
  "date-time": /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/,
};

/** The published schemas: as much of JSON Schema as they use. */
export class Shape {
  private readonly root: Schema;
  private readonly patterns = new Map<string, RegExp>();

  constructor(name: string) {
    this.root = JSON.parse(readFileSync(new URL(`./schemas/${name}.json`, import.meta.url), "utf8")) as Schema;
  }

  /** The value, when it fits; BadJson names up to twenty places where it does not. */
  check<Fitting>(value: Json): Fitting {
    const problems = [...this.misfits(this.root, value, "")].slice(0, 20);
    if (problems.length) throw new BadJson(problems);
    return value as Fitting;
  }

  private *misfits(schema: Schema, value: Json, pointer: string): Misfits {
    if (schema.$ref) {
      yield* this.misfits(this.root.$defs![schema.$ref.split("/").at(-1)!]!, value, pointer);
      return;
    }
    const choices = schema.anyOf ?? schema.oneOf;
    if (choices) {
      const found = choices.map((choice) => [...this.misfits(choice, value, pointer)]);
      // of several that do not fit, the one that fits best says why
      if (found.every((one) => one.length)) yield* found.sort((one, other) => one.length - other.length)[0]!;
      return;
    }
    if (schema.type && !isOf(schema.type, value)) {
      yield { pointer, detail: `must be of type ${schema.type}` };
      return;
    }
    const values = schema.const === undefined ? schema.enum : [schema.const];
    if (values && !values.includes(value)) yield { pointer, detail: `must be one of ${values.join(", ")}` };
    if (typeof value === "string") yield* this.text(schema, value, pointer);
    else if (typeof value === "number") yield* bounds("be", value, schema.minimum, schema.maximum, pointer);
    else if (Array.isArray(value)) {
      yield* bounds("have a length", value.length, schema.minItems, schema.maxItems, pointer);
      for (const [place, one] of value.entries()) if (schema.items) yield* this.misfits(schema.items, one, `${pointer}/${place}`);
    } else if (value !== null && typeof value === "object") yield* this.members(schema, value, pointer);
  }

  private *text(schema: Schema, value: string, pointer: string): Misfits {
    yield* bounds("have a length", [...value].length, schema.minLength, schema.maxLength, pointer);
    if (schema.pattern && !this.pattern(schema.pattern).test(value)) yield { pointer, detail: `must match ${schema.pattern}` };
    const format = schema.format && FORMATS[schema.format];
    if (format && !format.test(value)) yield { pointer, detail: `must be a ${schema.format}` };
  }

  private *members(schema: Schema, value: { [name: string]: Json }, pointer: string): Misfits {
    yield* bounds("have a size", Object.keys(value).length, schema.minProperties, schema.maxProperties, pointer);
    for (const name of schema.required ?? []) {
      if (!Object.hasOwn(value, name)) yield { pointer: `${pointer}/${name}`, detail: "is missing" };
    }
    for (const [name, one] of Object.entries(value)) {
      const here = `${pointer}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      const known = schema.properties && Object.hasOwn(schema.properties, name) ? schema.properties[name] : undefined;
      const alike = Object.entries(schema.patternProperties ?? {}).find(([pattern]) => this.pattern(pattern).test(name))?.[1];
      const others = typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined;
      const fitting = known ?? alike ?? others;
      if (fitting) yield* this.misfits(fitting, one, here);
      else if (schema.additionalProperties === false) yield { pointer: here, detail: "is not known" };
      if (schema.propertyNames) yield* this.misfits(schema.propertyNames, name, here);
    }
  }

  private pattern(text: string): RegExp {
    const known = this.patterns.get(text) ?? new RegExp(text, "u");
    this.patterns.set(text, known);
    return known;
  }
}

function isOf(type: string, value: Json): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  return type === "integer" ? Number.isInteger(value) : typeof value === type;
}

function* bounds(what: string, value: number, least: number | undefined, most: number | undefined, pointer: string): Misfits {
  if (least !== undefined && value < least) yield { pointer, detail: `must ${what} of at least ${least}` };
  if (most !== undefined && value > most) yield { pointer, detail: `must ${what} of at most ${most}` };
}

/**
 * Runs the conformance cases in Node. tests/conformance/README.md defines cases and results.
 *
 * Usage: node runner.js COMPONENT CASES
 *   COMPONENT  the output directory of jco
 *   CASES      the directory of the cases
 */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { Authority, StoreError, isContractError, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const camel = (kebab) => kebab.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
const kebab = (camel) => camel.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/**
 * Formats a value of the contract as JSON. JSON.stringify cannot write a BigInt as a number.
 *
 * No record of the contract has a field `tag`, and no case has an option as its payload. The value
 * alone therefore determines its type.
 */
function json(value) {
  if (value === undefined) return 'null';
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(json)}]`;
  if (!Object.hasOwn(value, 'tag')) return object(Object.entries(value).map(([key, field]) => [kebab(key), field]));
  return value.val === undefined ? json(value.tag) : object([[value.tag, value.val]]);
}

const object = (entries) => `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${json(value)}`)}}`;

/** Parses calls. A number becomes `{"u64":"…"}`, as JSON.parse rounds numbers above 2^53. */
const parse = (text) =>
  JSON.parse(text.replace(/("(?:[^"\\]|\\.)*")|\d+/g, (digits, string) => string ?? `{"u64":"${digits}"}`));

/**
 * Returns the value of an argument: a string, a number of 64 bits, a list of strings, an option of
 * these, or a record. Of the records, only `access` has a variant.
 */
function argument(written, named) {
  if (written === null) return undefined;
  if (Array.isArray(written)) return written.map((element) => argument(element, named));
  if (typeof written === 'object') {
    if (Object.hasOwn(written, 'u64')) return BigInt(written.u64);
    const field = ([key, value]) => [camel(key), key === 'target' ? variant(value, named) : argument(value, named)];
    return Object.fromEntries(Object.entries(written).map(field));
  }
  const [, name, field] = /^<([^.<>]+)\.([^.<>]+)>$/.exec(written) ?? [];
  return name === undefined ? written : named.get(name)[camel(field)];
}

/** Returns a case of a variant, which is written as its name or as an object of one key. */
function variant(written, named) {
  if (typeof written === 'string') return { tag: written };
  const [[tag, payload]] = Object.entries(written);
  return { tag, val: argument(payload, named) };
}

/** Returns all functions of the contract by their WIT names. */
function functions(authority) {
  const all = Object.entries(authority).flatMap(([name, interface_]) =>
    Object.entries(interface_).map(([key, call]) => [`${kebab(name)}.${kebab(key)}`, call]),
  );
  return new Map(all);
}

/** Wraps a store and injects the faults of `faults.json`. */
class ScriptedStore {
  #store;
  #read;
  #calls;
  #load = [];
  #swap = [];

  /** @param {(file: string) => string} read reads a file of the case */
  constructor(store, read, { calls = {} }) {
    this.#store = store;
    this.#read = read;
    this.#calls = calls;
  }

  /** Runs a call of the case, counted from 1. Every fault of that call must occur. */
  during(number, call) {
    const { load = [], swap = [] } = this.#calls[number] ?? {};
    [this.#load, this.#swap] = [[...load], [...swap]];
    try {
      return call();
    } finally {
      assert.deepEqual([this.#load, this.#swap], [[], []], 'a fault did not occur');
    }
  }

  load() {
    fail(this.#load.shift());
    return this.#store.load();
  }

  swap(expected, document) {
    const { overtaken, written, ...error } = this.#swap.shift() ?? {};
    if (overtaken !== undefined) this.#store.swap(this.#store.load()?.version, this.#read(overtaken));
    fail(error);
    const outcome = this.#store.swap(expected, document);
    // The component ignores the version, but another component may use it.
    if (outcome.tag === 'swapped') assert.deepEqual(this.#store.load(), { version: outcome.val, document });
    fail(written);
    return outcome;
  }
}

/** Throws the store error that the fault names, if any. */
function fail(fault) {
  for (const [tag, text] of Object.entries(fault ?? {})) throw new StoreError(tag, text);
}

/** Returns the line of JSON with the results of a case. */
function runCase(component, cases, name) {
  const started = Date.now();
  const has = (file) => existsSync(join(cases, name, file));
  const read = (file) => readFileSync(join(cases, name, file), 'utf8');
  const faults = has('faults.json') ? JSON.parse(read('faults.json')) : {};
  const store = new MemoryStore(has('before.jsonl') ? read('before.jsonl') : undefined);
  const scripted = new ScriptedStore(store, read, faults);
  const { random } = faults;
  const getRandomU64 = () => BigInt(random);
  const overrides = random === undefined ? {} : { 'wasi:random/random': { getRandomU64 } };
  const exported = functions(new Authority((imports) => component({ ...imports, ...overrides }), scripted));
  const named = new Map();
  const results = parse(read('calls.json')).map(({ call, args, as }, at) => {
    if (!exported.has(call)) throw new Error(`the contract has no ${call}`);
    const values = args.map((written) => argument(written, named));
    try {
      const value = scripted.during(at + 1, () => exported.get(call)(...values));
      if (as !== undefined) named.set(as, value);
      return `{"ok":${json(value)}}`;
    } catch (error) {
      if (!isContractError(error)) throw error;
      return `{"err":${json(error.payload)}}`;
    }
  });
  const document = json(store.load()?.document);
  return `{"case":${json(name)},"started":${started},"answers":[${results}],"document":${document}}`;
}

const [component, cases] = [await load(process.argv[2]), process.argv[3]];
const directories = readdirSync(cases, { withFileTypes: true }).filter((entry) => entry.isDirectory());
for (const name of directories.map((entry) => entry.name).sort()) {
  try {
    console.log(runCase(component, cases, name));
  } catch (error) {
    throw new Error(`case ${name}`, { cause: error });
  }
}

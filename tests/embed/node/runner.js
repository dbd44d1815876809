/**
 * Plays the conformance suite in Node; tests/conformance/README.md tells what a case is and what is answered.
 *
 * Usage: node runner.js COMPONENT CASES
 *   COMPONENT  the directory into which jco has transpiled the component
 *   CASES      the directory with the cases
 */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { Authority, StoreError, isAnswer, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const camel = (kebab) => kebab.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
const kebab = (camel) => camel.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/**
 * The JSON of a value of the contract. Written by hand, since JSON.stringify has no way to write a BigInt as a number.
 * No record of the contract has a field `tag`, and no case an option for payload, so a value tells what it is.
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

/** Reads calls. A number comes as `{"u64":"…"}`, since JSON.parse would round those above 2^53. */
const parse = (text) =>
  JSON.parse(text.replace(/("(?:[^"\\]|\\.)*")|\d+/g, (digits, string) => string ?? `{"u64":"${digits}"}`));

/** The value of an argument. Arguments of the contract are strings, numbers of 64 bits, and options of these. */
function argument(written, named) {
  if (written === null) return undefined;
  if (typeof written === 'object') return BigInt(written.u64);
  const [, name, field] = /^<([^.<>]+)\.([^.<>]+)>$/.exec(written) ?? [];
  return name === undefined ? written : named.get(name)[camel(field)];
}

/** All functions of the contract, as the WIT names them. */
function functions(authority) {
  const all = Object.entries(authority).flatMap(([name, interface_]) =>
    Object.entries(interface_).map(([key, call]) => [`${name}.${kebab(key)}`, call]),
  );
  return new Map(all);
}

/** A store that fails where `faults.json` says so, around one that does not. */
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

  /** Makes a call of the case, counted from 1. All that was to go wrong must have. */
  during(number, call) {
    const { load = [], swap = [] } = this.#calls[number] ?? {};
    [this.#load, this.#swap] = [[...load], [...swap]];
    try {
      return call();
    } finally {
      assert.deepEqual([this.#load, this.#swap], [[], []], 'what was to go wrong never came');
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
    // This component has no use for the version, but another may.
    if (outcome.tag === 'swapped') assert.deepEqual(this.#store.load(), { version: outcome.val, document });
    fail(written);
    return outcome;
  }
}

/** Throws the error of the contract that this stands for, if it is one. */
function fail(fault) {
  for (const [tag, text] of Object.entries(fault ?? {})) throw new StoreError(tag, text);
}

/** The line that tells what comes back from a case. */
function play(component, cases, name) {
  const started = Date.now();
  const has = (file) => existsSync(join(cases, name, file));
  const read = (file) => readFileSync(join(cases, name, file), 'utf8');
  const faults = has('faults.json') ? JSON.parse(read('faults.json')) : {};
  const store = new MemoryStore(has('before.jsonl') ? read('before.jsonl') : undefined);
  const scripted = new ScriptedStore(store, read, faults);
  const { random } = faults;
  const getRandomU64 = () => BigInt(random);
  const lent = random === undefined ? {} : { 'wasi:random/random': { getRandomU64 } };
  const known = functions(new Authority((imports) => component({ ...imports, ...lent }), scripted));
  const named = new Map();
  const answers = parse(read('calls.json')).map(({ call, args, as }, at) => {
    if (!known.has(call)) throw new Error(`the contract has no ${call}`);
    const values = args.map((written) => argument(written, named));
    try {
      const value = scripted.during(at + 1, () => known.get(call)(...values));
      if (as !== undefined) named.set(as, value);
      return `{"ok":${json(value)}}`;
    } catch (error) {
      if (!isAnswer(error)) throw error;
      return `{"err":${json(error.payload)}}`;
    }
  });
  const document = json(store.load()?.document);
  return `{"case":${json(name)},"started":${started},"answers":[${answers}],"document":${document}}`;
}

const [component, cases] = [await load(process.argv[2]), process.argv[3]];
const directories = readdirSync(cases, { withFileTypes: true }).filter((entry) => entry.isDirectory());
for (const name of directories.map((entry) => entry.name).sort()) {
  try {
    console.log(play(component, cases, name));
  } catch (error) {
    throw new Error(`in the case ${name}`, { cause: error });
  }
}

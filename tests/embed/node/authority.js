/**
 * Hosts the component in Node, as `jco transpile --instantiation sync` has translated it.
 *
 * The component is lent a store, randomness and a clock. It gets nothing else: no WASI shim is linked, so there are no
 * files, no environment and no network to be had, and a build that asks for them cannot be instantiated.
 *
 * What Node does not offer, and what to do about it:
 * - It cannot limit the memory of one instance. `node --wasm-max-mem-pages=512` limits every one in the process to
 *   32 MiB, which is room for the 10,000 tokens that a catalog may have.
 * - It cannot interrupt a call. Whoever runs a build that they do not trust does so in a `Worker` and terminates that.
 * - It cannot wipe a secret: a string is immutable, and lies in memory until the collector overwrites it. Hand a secret
 *   on at once and keep no reference to it.
 */

import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Where the catalog lies; the contract is `wit/catalog-store.wit`. Both calls must answer at once: the component cannot
 * wait for a promise. A store behind an asynchronous client runs the component in a `Worker` and waits there
 * (`Atomics.wait`) for what another thread fetches.
 *
 * @typedef {{ tag: 'swapped', val: string } | { tag: 'stale' }} SwapOutcome
 * @typedef {object} CatalogStore
 * @property {() => { version: string, document: string } | undefined} load
 * @property {(expected: string | undefined, document: string) => SwapOutcome} swap
 */

/** What a store throws when it cannot answer. */
export class StoreError extends Error {
  /**
   * @param {'unavailable' | 'unknown-outcome' | 'other'} tag
   * @param {string} text for the operator of the host; it must hold no document
   */
  constructor(tag, text) {
    super(text);
    this.payload = { tag, val: text };
  }
}

/**
 * Whether this is an `err` of the contract, which is in `error.payload`. All else that a call throws is a trap, or a
 * mistake of the host.
 */
export const isAnswer = (error) => error instanceof Error && Object.hasOwn(error, 'payload');

/**
 * Loads and compiles what jco has written into a directory, once for any number of instances.
 *
 * @returns a function that makes an instance of these imports
 */
export async function load(directory) {
  const { instantiate } = await import(pathToFileURL(join(directory, 'optoken.js')));
  const names = (await readdir(directory)).filter((name) => name.endsWith('.wasm'));
  const compile = async (name) => [name, await WebAssembly.compile(await readFile(join(directory, name)))];
  const modules = new Map(await Promise.all(names.map(compile)));
  return (imports) => withPromising(() => instantiate((name) => modules.get(name), imports));
}

/** What a store has answered, if it has: a promise would be taken for an entry without a document. */
function answered(answer) {
  if (typeof answer?.then !== 'function') return answer;
  // Whatever becomes of it, nobody is there any more to hear it.
  answer.then(undefined, () => {});
  throw new TypeError('the store answers with a promise; load and swap must be synchronous');
}

/** All that the component gets. */
export const lend = (/** @type {CatalogStore} */ store) => ({
  'optoken:authority/catalog-store': {
    load: () => answered(store.load()),
    swap: (expected, document) => answered(store.swap(expected, document)),
  },
  'wasi:random/random': {
    getRandomU64: () => crypto.getRandomValues(new BigUint64Array(1))[0],
  },
  'wasi:clocks/wall-clock': {
    now: () => {
      const now = Date.now();
      return { seconds: BigInt(Math.floor(now / 1000)), nanoseconds: (now % 1000) * 1_000_000 };
    },
  },
});

/**
 * The contract over one store: `authority.tokens.createOperator(origin)`, and so on for all of `wit/`. A u64 is a
 * BigInt, an option without value `undefined`, an `err` an exception ({@link isAnswer}).
 *
 * It answers `authenticate` from the catalog it has read. A host that learns of a change made elsewhere makes a new
 * one.
 */
export class Authority {
  #instantiate;
  #instance;

  /** @param component what {@link load} gave */
  constructor(component, /** @type {CatalogStore} */ store) {
    this.#instantiate = () => component(lend(store));
    this.#instance = this.#instantiate();
    for (const name of ['authenticator', 'tokens', 'recovery', 'provision']) {
      const functions = Object.keys(this.#instance[name]);
      this[name] = Object.fromEntries(functions.map((key) => [key, (...args) => this.#call(name, key, args)]));
    }
  }

  #call(name, key, args) {
    this.#instance ??= this.#instantiate();
    const call = this.#instance[name][key];
    if (args.length !== call.length) throw new TypeError(`${name}.${key} takes ${call.length} arguments`);
    try {
      return call(...args);
    } catch (error) {
      // A trap leaves an instance as it stood, in the middle of something. All that counts is in the store, so the next
      // call gets a new one.
      if (!isAnswer(error)) this.#instance = undefined;
      throw error;
    }
  }
}

/**
 * jco's code calls `WebAssembly.promising` ten times and takes an exception for a no. Where Node does not have it, V8
 * parses all of that code again to word each exception: 13 ms for an instance instead of 0.3. The stand-in does what
 * jco does after one, and is gone before anybody else can look.
 */
function withPromising(work) {
  if ('promising' in WebAssembly) return work();
  WebAssembly.promising = (core) => core;
  try {
    return work();
  } finally {
    delete WebAssembly.promising;
  }
}

/**
 * Hosts the component in Node, as translated by `jco transpile --instantiation sync`.
 *
 * The host provides a store, randomness and a clock, and nothing else. No WASI shim is linked, so
 * the component has no files, no environment and no network. A build that imports more cannot be
 * instantiated.
 *
 * Limits of Node, and their workarounds:
 * - It cannot limit the memory of one instance. `node --wasm-max-mem-pages=512` limits every
 *   instance of the process to 32 MiB, enough for the 10,000 tokens that a catalog may have.
 * - It cannot interrupt a call. Run an untrusted build in a `Worker`, and terminate the worker.
 * - It cannot wipe a secret. A string is immutable, and stays in memory until the garbage collector
 *   overwrites it. Pass a secret on at once and keep no reference to it.
 */

import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Stores the catalog. The contract is `wit/catalog-store.wit`. Both calls must be synchronous: the
 * component cannot wait for a promise. With an asynchronous client, run the component in a
 * `Worker`, which waits (`Atomics.wait`) for the result of another thread.
 *
 * @typedef {{ tag: 'swapped', val: string } | { tag: 'stale' }} SwapOutcome
 * @typedef {object} CatalogStore
 * @property {() => { version: string, document: string } | undefined} load
 * @property {(expected: string | undefined, document: string) => SwapOutcome} swap
 */

/** The error of a store, which `load` and `swap` throw. */
export class StoreError extends Error {
  /**
   * @param {'unavailable' | 'unknown-outcome' | 'other'} tag
   * @param {string} text for the operator of the host; must not contain the document
   */
  constructor(tag, text) {
    super(text);
    this.payload = { tag, val: text };
  }
}

/**
 * Returns whether an exception is an `err` of the contract, which is in `error.payload`. Any other
 * exception of a call is a trap, or a defect of the host.
 */
export const isContractError = (error) => error instanceof Error && Object.hasOwn(error, 'payload');

/**
 * Loads and compiles the output directory of jco, once for any number of instances.
 *
 * @returns a function that instantiates the component with the given imports
 */
export async function load(directory) {
  const { instantiate } = await import(pathToFileURL(join(directory, 'optoken.js')));
  const names = (await readdir(directory)).filter((name) => name.endsWith('.wasm'));
  const compile = async (name) => [name, await WebAssembly.compile(await readFile(join(directory, name)))];
  const modules = new Map(await Promise.all(names.map(compile)));
  return (imports) => withPromising(() => instantiate((name) => modules.get(name), imports));
}

/**
 * Returns the result of a store, unless it is a promise. The component would treat a promise as an
 * entry without a document.
 */
function requireSynchronous(result) {
  if (typeof result?.then !== 'function') return result;
  // A later rejection of the promise has no other handler, and would end the process.
  result.then(undefined, () => {});
  throw new TypeError('the store returns a promise; load and swap must be synchronous');
}

/** Returns all imports of the component. */
export const createImports = (/** @type {CatalogStore} */ store) => ({
  'optoken:authority/catalog-store': {
    load: () => requireSynchronous(store.load()),
    swap: (expected, document) => requireSynchronous(store.swap(expected, document)),
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
 * The functions of the contract for one store, for example
 * `authority.tokens.createOperator(origin)`. A u64 is a BigInt, an option without value is
 * `undefined`, and an `err` is an exception ({@link isContractError}).
 *
 * `authenticate` uses the catalog that the instance has loaded. After a change by another process,
 * the host must create a new `Authority`.
 */
export class Authority {
  #instantiate;
  #instance;

  /** @param component the function that {@link load} returns */
  constructor(component, /** @type {CatalogStore} */ store) {
    this.#instantiate = () => component(createImports(store));
    this.#instance = this.#instantiate();
    for (const name of ['componentInfo', 'authenticator', 'tokens', 'recovery', 'provision']) {
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
      // A trap leaves the instance in an undefined state. The store holds all state, so the next
      // call gets a new instance.
      if (!isContractError(error)) this.#instance = undefined;
      throw error;
    }
  }
}

/**
 * Runs `callback` with a substitute for `WebAssembly.promising` if Node has none.
 *
 * The code of jco calls that function ten times, and treats an exception as its absence. V8 parses
 * the whole code again to format each exception: an instance takes 13 ms instead of 0.3 ms. The
 * substitute does what jco does after an exception. It is removed before other code can run.
 */
function withPromising(callback) {
  if ('promising' in WebAssembly) return callback();
  WebAssembly.promising = (core) => core;
  try {
    return callback();
  } finally {
    delete WebAssembly.promising;
  }
}

/**
 * A catalog store in memory, as an example of the contract. A persistent store must return only
 * after a change is durable.
 */

import { randomUUID } from 'node:crypto';

export class MemoryStore {
  #entry;

  /** @param {string} [document] the initial document */
  constructor(document) {
    if (document !== undefined) this.#put(document);
  }

  load() {
    return this.#entry;
  }

  // Synchronous from the comparison to the write, so no other call runs in between.
  swap(expected, document) {
    if (expected !== this.#entry?.version) return { tag: 'stale' };
    return { tag: 'swapped', val: this.#put(document) };
  }

  #put(document) {
    // Random instead of a counter, so that no version repeats, even after a restart.
    const version = randomUUID();
    this.#entry = { version, document };
    return version;
  }
}

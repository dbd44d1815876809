/** A catalog store in memory, to show the contract. A real one answers when a power cut can do no more harm. */

import { randomUUID } from 'node:crypto';

export class MemoryStore {
  #entry;

  /** @param {string} [document] what is stored already */
  constructor(document) {
    if (document !== undefined) this.#put(document);
  }

  load() {
    return this.#entry;
  }

  // Synchronous from the comparison to the write, so nobody comes between.
  swap(expected, document) {
    if (expected !== this.#entry?.version) return { tag: 'stale' };
    return { tag: 'swapped', val: this.#put(document) };
  }

  #put(document) {
    // Random and not counted, so that no version comes twice, also not after a restart.
    const version = randomUUID();
    this.#entry = { version, document };
    return version;
  }
}
